{{/* Parts of the pods of both programs. */}}

{{/* The defaults are admitted where pod security `restricted` is enforced (K8S-52). */}}
{{- define "minichat.podSecurityContext" -}}
{{- with .Values.podSecurityContext -}}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "minichat.containerSecurityContext" -}}
{{- with .Values.containerSecurityContext -}}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment variables: list of component, the chart's variables as YAML, and `extraEnv`. */}}
{{- define "minichat.env" -}}
{{- $component := index . 0 -}}
{{- $names := list -}}
{{- range fromYamlArray (index . 1) }}{{ $names = append $names .name }}{{ end -}}
{{- range index . 2 }}
{{- if has .name $names }}
{{- fail (printf "%s.extraEnv: the chart sets %s itself, so remove it and use the value that belongs to it" $component .name) }}
{{- end }}
{{- end -}}
{{ index . 1 }}
{{- with index . 2 }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Volumes: list of component, the chart's volumes as YAML, and `extraVolumes`. */}}
{{- define "minichat.volumes" -}}
{{- $component := index . 0 -}}
{{- $names := list "data" -}}
{{- range fromYamlArray (index . 1) }}{{ $names = append $names .name }}{{ end -}}
{{- range index . 2 }}
{{- if has .name $names }}
{{- fail (printf "%s.extraVolumes: the chart has a volume called %s itself, so choose another name" $component .name) }}
{{- end }}
{{- end -}}
{{- if or (index . 1 | trim) (index . 2) }}
volumes:
  {{- with index . 1 | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with index . 2 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Scheduling of pods: list of root, component and the component's values. A constraint without a selector counts the
component's own pods, and those of a Deployment only of one revision: the old ones leave during an update. */}}
{{- define "minichat.placement" -}}
{{- $spread := list -}}
{{- range (index . 2).topologySpreadConstraints }}
{{- if not .labelSelector }}
{{- $own := dict "labelSelector" (dict "matchLabels" (include "minichat.selector" $ | fromYaml)) -}}
{{- if has (index $ 1) (list "operator" "pool") }}
{{- $_ := set $own "matchLabelKeys" (list "pod-template-hash") -}}
{{- end }}
{{- $spread = append $spread (merge $own .) -}}
{{- else }}
{{- $spread = append $spread . -}}
{{- end }}
{{- end }}
{{- with index . 2 }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $spread }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Probes of the admin listener. The startup probe allows for a slow start. */}}
{{- define "minichat.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* The beginning of every pod's spec. */}}
{{- define "minichat.podBasics" -}}
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Annotations of a pod that serves metrics: list of root and the component's values. */}}
{{- define "minichat.podAnnotations" -}}
{{- if (index . 0).Values.monitoring.scrapeAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "9090"
prometheus.io/path: /metrics
{{- end }}
{{- with (index . 1).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Strategy of a Deployment. */}}
{{- define "minichat.strategy" -}}
{{- if eq (default "" .type) "Recreate" -}}
type: Recreate
{{- else -}}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Selector and limits of a PodDisruptionBudget: list of root, component and the component's values. */}}
{{- define "minichat.disruptionBudget" -}}
{{- $budget := (index . 2).podDisruptionBudget -}}
{{- if and (hasKey $budget "minAvailable") (hasKey $budget "maxUnavailable") }}
{{- fail (printf "%s.podDisruptionBudget: minAvailable and maxUnavailable exclude each other; set maxUnavailable to null" (index . 1)) }}
{{- end -}}
{{- toYaml (merge (deepCopy $budget) (dict "unhealthyPodEvictionPolicy" "AlwaysAllow")) }}
selector:
  matchLabels:
    {{- include "minichat.selector" . | nindent 4 }}
{{- end }}
