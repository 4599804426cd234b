{{/* Settings that operator and pool share are rendered in one place, so that they cannot differ. */}}
{{- define "minichat.operatorEnv" -}}
{{- $pool := .Values.pool -}}
- name: MINICHAT_OPERATOR_NAMESPACE
  value: {{ .Release.Namespace }}
- name: MINICHAT_OPERATOR_POOL
  value: {{ $pool.name | quote }}
- name: MINICHAT_OPERATOR_MANAGED_CONFIG_MAP
  value: {{ include "minichat.managed" . }}
- name: MINICHAT_OPERATOR_MANAGED_DIR
  value: /etc/minichat-managed
- name: MINICHAT_OPERATOR_POD_SELECTOR
  value: {{ include "minichat.labelSelector" (list . "pool") }}
- name: MINICHAT_OPERATOR_JOB_SELECTOR
  value: {{ include "minichat.labelSelector" (list . "watchdog") }}
- name: MINICHAT_OPERATOR_CLEANUP_SELECTOR
  value: {{ include "minichat.labelSelector" (list . "cleanup") }}
- name: MINICHAT_OPERATOR_WATCHDOG
  value: {{ include "minichat.watchdogMode" . }}
- name: MINICHAT_OPERATOR_WATCHDOG_MISSED_AFTER_SECS
  value: {{ int .Values.watchdog.missedAfterSeconds | quote }}
- name: MINICHAT_OPERATOR_WATCH_NAMESPACES
  value: {{ join "," .Values.operator.namespaces | quote }}
- name: MINICHAT_OPERATOR_ALLOW_HTTP
  value: {{ dig "provider_http" "allow_http" false $pool.config | quote }}
- name: MINICHAT_OPERATOR_OUTBOUND_ALLOW_PRIVATE
  value: {{ join "," .Values.outbound.allowPrivate | quote }}
- name: MINICHAT_OPERATOR_ORPHAN_TIMEOUT_SECS
  value: {{ dig "orphan_watchdog" "timeout_secs" 300 $pool.config | int | quote }}
{{- $issuer := dig "auth" "issuer" "" $pool.config }}
{{- /* Values that pods read from environment variables are not known here. */}}
{{- if and $issuer (not (contains "${" $issuer)) }}
- name: MINICHAT_OPERATOR_ISSUER
  value: {{ $issuer | quote }}
{{- end }}
- name: MINICHAT_OPERATOR_METRICS_PREFIX
  value: {{ dig "metrics" "prefix" "mini_chat" $pool.config | quote }}
- name: MINICHAT_OPERATOR_METRICS_MAX_LABEL_VALUES
  value: {{ dig "metrics" "max_label_values" 200 $pool.config | int | quote }}
- name: MINICHAT_OPERATOR_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
