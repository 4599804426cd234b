{{/* NetworkPolicies of all components. */}}

{{/* Egress rules of pods that connect to what `names` says: list of root, names of `networkPolicy.egress`, and further rules
(a list). Empty = everything is allowed. */}}
{{- define "minichat.egress" -}}
{{- $egress := (index . 0).Values.networkPolicy.egress -}}
{{- $rules := list -}}
{{- if $egress.enabled }}
{{- range index . 1 }}{{ $rules = concat $rules (get $egress .) }}{{ end -}}
{{- end }}
{{- $rules = concat $rules (index . 2) -}}
{{- with $rules }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Head of a NetworkPolicy: list of root and component. */}}
{{- define "minichat.networkPolicyHead" -}}
{{- $root := index . 0 -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "minichat.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "minichat.labels" . | nindent 4 }}
{{- end }}

{{/* Selector, types and egress of a NetworkPolicy: list of root, component and egress rules as YAML. */}}
{{- define "minichat.networkPolicySpec" -}}
podSelector:
  matchLabels:
    {{- include "minichat.selector" . | nindent 4 }}
policyTypes:
  - Ingress
  {{- if index . 2 }}
  - Egress
  {{- end }}
{{- with index . 2 }}
egress:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
