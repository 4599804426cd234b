{{/* Names, labels and images. */}}

{{- define "minichat.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* First part of every object's name; 40 characters leave room for the suffix. */}}
{{- define "minichat.fullname" -}}
{{- $name := include "minichat.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "minichat.operator" -}}
{{- include "minichat.fullname" . }}-operator
{{- end }}

{{/* Owns the Secrets that the operator renders and the CronJobs that it makes, so that they are deleted with the release. */}}
{{- define "minichat.managed" -}}
{{- include "minichat.fullname" . }}-managed
{{- end }}

{{/* The Lease of the leading operator; one per pool in the namespace. */}}
{{- define "minichat.operatorLease" -}}
minichat-operator-{{ .Values.pool.name }}
{{- end }}

{{/* Names of cluster-wide objects. Namespaces cannot contain a colon, so no other release has the same name. */}}
{{- define "minichat.operatorOutside" -}}
{{ .Release.Namespace }}:{{ include "minichat.operator" . }}
{{- end }}

{{- define "minichat.pool" -}}
{{- include "minichat.fullname" . }}-pool
{{- end }}

{{- define "minichat.watchdog" -}}
{{- include "minichat.fullname" . }}-watchdog
{{- end }}

{{/* On SQLite the pool's pod runs the watchdog itself, because no other process can open its file. */}}
{{- define "minichat.hasWatchdog" -}}
{{- if and (include "minichat.onPostgres" .) (dig "orphan_watchdog" "enabled" true .Values.pool.config) }}true{{ end -}}
{{- end }}

{{/* How the turns of crashed processes are ended, in the words of the operator. */}}
{{- define "minichat.watchdogMode" -}}
{{- if not (dig "orphan_watchdog" "enabled" true .Values.pool.config) -}}
disabled
{{- else if not (include "minichat.onPostgres" .) -}}
in-process
{{- else if .Values.watchdog.suspend -}}
suspended
{{- else -}}
jobs
{{- end -}}
{{- end }}

{{/* The Lease of the running watchdog. */}}
{{- define "minichat.watchdogLease" -}}
{{- include "minichat.fullname" . }}-orphan-watchdog
{{- end }}

{{- define "minichat.cleanup" -}}
{{- include "minichat.fullname" . }}-cleanup
{{- end }}

{{/* On SQLite the pool's pod cleans up itself, because no other process can open its file. */}}
{{- define "minichat.hasCleanup" -}}
{{- if and (include "minichat.onPostgres" .) (dig "cleanup_worker" "enabled" true .Values.pool.config) }}true{{ end -}}
{{- end }}

{{- define "minichat.migration" -}}
{{- include "minichat.fullname" . }}-migration
{{- end }}

{{- define "minichat.hasMigrationJob" -}}
{{- if and (include "minichat.onPostgres" .) (eq .Values.migration.mode "Job") }}true{{ end -}}
{{- end }}

{{- define "minichat.cleanupServiceAccount" -}}
{{- default (include "minichat.cleanup" .) .Values.cleanup.serviceAccount.name -}}
{{- end }}

{{- define "minichat.operatorServiceAccount" -}}
{{- default (include "minichat.operator" .) .Values.operator.serviceAccount.name -}}
{{- end }}

{{- define "minichat.poolServiceAccount" -}}
{{- default (include "minichat.pool" .) .Values.pool.serviceAccount.name -}}
{{- end }}

{{- define "minichat.watchdogServiceAccount" -}}
{{- default (include "minichat.watchdog" .) .Values.watchdog.serviceAccount.name -}}
{{- end }}

{{/* Labels for selectors, which must never change: list of root and component. */}}
{{- define "minichat.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "minichat.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The same as one line, for API calls. */}}
{{- define "minichat.labelSelector" -}}
{{- $root := index . 0 -}}
{{- printf "app.kubernetes.io/name=%s,app.kubernetes.io/instance=%s,app.kubernetes.io/component=%s" (include "minichat.name" $root) $root.Release.Name (index . 1) -}}
{{- end }}

{{/* Labels of an object: list of root and component. */}}
{{- define "minichat.labels" -}}
{{- $root := index . 0 -}}
{{ include "minichat.selector" . }}
app.kubernetes.io/part-of: minichat
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object that runs pods: list of root, component and the component's values. */}}
{{- define "minichat.workloadMetadata" -}}
{{- $values := index . 2 -}}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "minichat.labels" . | nindent 2 }}
  {{- with $values.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Labels of a pod, without the chart's version, because a new version would restart pods with an unchanged program. */}}
{{- define "minichat.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "minichat.selector" . }}
app.kubernetes.io/part-of: minichat
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image: list of root and the component's values. A digest stands alone, because some runtimes refuse a tag beside it. */}}
{{- define "minichat.image" -}}
{{- $root := index . 0 -}}
{{- $image := (index . 1).image -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- with $image.digest }}@{{ . }}{{ else }}:{{ default (default $root.Chart.AppVersion $root.Values.image.tag) $image.tag }}{{ end }}
{{- end }}
