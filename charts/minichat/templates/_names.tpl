{{/* Names, labels and images. */}}

{{- define "minichat.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* First part of every object's name; 40 characters leave room for what follows. */}}
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

{{/* Owns what the operator makes, so that it goes with the release. */}}
{{- define "minichat.managed" -}}
{{- include "minichat.fullname" . }}-managed
{{- end }}

{{/* Held by the operator that works: one for each pool in the namespace. */}}
{{- define "minichat.operatorLease" -}}
minichat-operator-{{ .Values.pool.name }}
{{- end }}

{{/* Outside of the release's namespace: no namespace has a colon in its name, so no other release has the same. */}}
{{- define "minichat.operatorOutside" -}}
{{ .Release.Namespace }}:{{ include "minichat.operator" . }}
{{- end }}

{{- define "minichat.pool" -}}
{{- include "minichat.fullname" . }}-pool
{{- end }}

{{- define "minichat.watchdog" -}}
{{- include "minichat.fullname" . }}-watchdog
{{- end }}

{{/* On SQLite the pool's pod looks itself: nobody else can open its file. */}}
{{- define "minichat.hasWatchdog" -}}
{{- if and (include "minichat.onPostgres" .) (dig "orphan_watchdog" "enabled" true .Values.pool.config) }}true{{ end -}}
{{- end }}

{{/* Who ends turns that a dead process left running, as the operator calls it. */}}
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

{{/* Held by whoever looks after the database. */}}
{{- define "minichat.watchdogLease" -}}
{{- include "minichat.fullname" . }}-orphan-watchdog
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

{{/* What never changes, for selectors: list of root and component. */}}
{{- define "minichat.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "minichat.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The same in one line, as API calls take it. */}}
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

{{/* Labels of a pod: without the chart's version, which would roll pods whose program stays. */}}
{{- define "minichat.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "minichat.selector" . }}
app.kubernetes.io/part-of: minichat
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image: list of root and repository. */}}
{{- define "minichat.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ index . 1 }}:{{ default $root.Chart.AppVersion $root.Values.image.tag }}
{{- end }}
