{{/* What the operator may do where tenants live; the same rules cluster-wide or in each of a list of namespaces. */}}
{{- define "minichat.operatorTenantRules" -}}
- apiGroups: [minichat.dev]
  resources: [chattenants, chatquotas]
  verbs: [get, list, watch, patch]
- apiGroups: [minichat.dev]
  resources: [chattenants/status, chatquotas/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
