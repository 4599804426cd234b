{{/* Rights of the operator in tenants' namespaces: the same rules cluster-wide or in each listed namespace. */}}
{{- define "minichat.operatorTenantRules" -}}
- apiGroups: [minichat.dev]
  resources: [chattenants]
  verbs: [list, watch, patch]
- apiGroups: [minichat.dev]
  resources: [chatquotas]
  verbs: [list, watch]
- apiGroups: [minichat.dev]
  resources: [chattenants/status, chatquotas/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
