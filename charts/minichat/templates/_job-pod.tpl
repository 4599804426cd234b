{{/* Parts of the pods of jobs. */}}

{{- define "minichat.watchdogEnv" -}}
{{ include "minichat.databaseEnv" . }}
- name: MINICHAT_JOB_LEASE
  value: {{ include "minichat.watchdogLease" . }}
{{- end }}

{{- define "minichat.watchdogVolumes" -}}
{{ include "minichat.configVolume" . }}
{{- with include "minichat.databaseVolume" . }}
{{ . }}
{{- end }}
{{- end }}

{{- define "minichat.cleanupEnv" -}}
- name: MINICHAT_SOURCE_POOL
  value: {{ .Values.pool.name | quote }}
{{ include "minichat.databaseEnv" . }}
{{- with include "minichat.proxyEnv" . }}
{{ . }}
{{- end }}
{{- end }}

{{- define "minichat.cleanupVolumes" -}}
{{ include "minichat.configVolume" . }}
{{- with include "minichat.caVolume" . }}
{{ . }}
{{- end }}
{{- with include "minichat.databaseVolume" . }}
{{ . }}
{{- end }}
{{- end }}

{{/* The process configuration of the migration: it runs before the pool's ConfigMap exists. */}}
{{- define "minichat.migrationEnv" -}}
{{ include "minichat.databaseEnv" . }}
{{- range $section := list "database" "logging" }}
{{- range $key, $value := dig $section dict $.Values.pool.config }}
- name: MINICHAT_{{ upper $section }}_{{ upper $key }}
  value: {{ toString $value | quote }}
{{- end }}
{{- end }}
{{- end }}
