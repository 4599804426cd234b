{{/* What the operator makes: manifests that it reads at its start, applies and keeps (D38). */}}

{{/* Name of a CronJob: list of root and job. The Jobs of a CronJob have names with 11 more characters, so 52 are left of 63.
No CronJob of an older chart had this name: on an upgrade, Helm deletes those, and on a rollback it makes them again. */}}
{{- define "minichat.cronJob" -}}
{{- $fullname := include "minichat.fullname" (index . 0) -}}
{{- $job := index . 1 -}}
{{- $name := printf "%s-pool-%s" $fullname $job -}}
{{- if le (len $name) 52 -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s-%s" ($fullname | trunc (sub 42 (len $job) | int) | trimSuffix "-") ($fullname | sha256sum | trunc 8) $job -}}
{{- end -}}
{{- end }}

{{/* Finished Jobs stay until the operator has counted them, even if it is away for two hours. Then it lets the cluster delete
them. */}}
{{- define "minichat.jobHistory" -}}
successfulJobsHistoryLimit: 150
failedJobsHistoryLimit: 150
{{- end }}

{{/* Keys of the ConfigMap. A missing one means that the job is not wanted. */}}
{{- define "minichat.managedData" -}}
about: |
  The operator makes what the manifests in this ConfigMap describe. They and the Secrets minichat-tenant-* are owned by this
  ConfigMap: deleting it deletes them.
{{- if include "minichat.hasWatchdog" . }}
watchdog.yaml: |
  {{- include "minichat.watchdogCronJob" . | nindent 2 }}
{{- end }}
{{- if include "minichat.hasCleanup" . }}
cleanup.yaml: |
  {{- include "minichat.cleanupCronJob" . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "minichat.operatorVolumes" -}}
- name: managed
  configMap:
    name: {{ include "minichat.managed" . }}
{{- end }}
