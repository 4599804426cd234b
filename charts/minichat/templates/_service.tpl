{{/* Address families of the Services. */}}
{{- define "minichat.ipFamilies" -}}
{{- with .Values.pool.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.pool.service.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* How the API is called. */}}
{{- define "minichat.scheme" -}}
{{- ternary "https" "http" (not (empty .Values.pool.tls.existingSecret)) -}}
{{- end }}

{{/* The path below which a proxy finds the API (API-1). */}}
{{- define "minichat.routedPath" -}}
{{- $config := .Values.pool.config -}}
{{- dig "server" "root_prefix" "" $config }}{{ default "/mini-chat" $config.url_prefix }}
{{- end }}

{{/* A headless Service for metrics, apart from the API's, so that exposing the API does not expose them: list of root and
component. */}}
{{- define "minichat.metricsService" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "minichat.fullname" $root }}-{{ index . 1 }}-metrics
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "minichat.labels" . | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  {{- with include "minichat.ipFamilies" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  selector:
    {{- include "minichat.selector" . | nindent 4 }}
  ports:
    - name: admin
      port: 9090
      targetPort: admin
      appProtocol: http
{{- end }}
