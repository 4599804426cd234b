{{/* A ServiceAccount: list of root, component, name and annotations. Pods that need its token mount it explicitly. */}}
{{- define "minichat.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 2 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "minichat.labels" (list (index . 0) (index . 1)) | nindent 4 }}
  {{- with index . 3 }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
