{{/* What the Prometheus operator scrapes. Its kinds may be missing in a cluster, and then no monitor is created. */}}

{{/* Whether monitors of `kind` are wanted and possible: list of root, kind, and the value that asks for them. */}}
{{- define "minichat.hasMonitor" -}}
{{- $root := index . 0 -}}
{{- if and (index . 2).enabled ($root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" (index . 1))) }}true{{ end -}}
{{- end }}

{{/* A monitor: list of root, component, kind, and the field of its endpoints. */}}
{{- define "minichat.monitor" -}}
{{- $root := index . 0 -}}
{{- $monitoring := $root.Values.monitoring -}}
{{- if and $monitoring.podMonitor.enabled $monitoring.serviceMonitor.enabled }}
{{- fail "monitoring: podMonitor and serviceMonitor together would scrape each pod twice; enable one of them" }}
{{- end -}}
apiVersion: monitoring.coreos.com/v1
kind: {{ index . 2 }}
metadata:
  name: {{ include "minichat.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "minichat.labels" . | nindent 4 }}
    {{- with $monitoring.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "minichat.selector" . | nindent 6 }}
  {{ index . 3 }}:
    - port: admin
      path: /metrics
      {{- with $monitoring.interval }}
      interval: {{ . }}
      {{- end }}
      {{- with $monitoring.scrapeTimeout }}
      scrapeTimeout: {{ . }}
      {{- end }}
{{- end }}
