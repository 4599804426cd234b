{{/* How many pods the pool has, and what follows from it. */}}

{{/* The most pods that the pool can have. */}}
{{- define "minichat.poolMaxReplicas" -}}
{{- $pool := .Values.pool -}}
{{- ternary $pool.autoscaling.maxReplicas $pool.replicaCount $pool.autoscaling.enabled | int -}}
{{- end }}

{{/* `replicas` of the pool's Deployment. With an autoscaler they are as they are: without the field, Helm would reset them to
one. Without a cluster nobody knows them, so the field is left out. */}}
{{- define "minichat.poolReplicas" -}}
{{- if not .Values.pool.autoscaling.enabled -}}
{{- .Values.pool.replicaCount -}}
{{- else -}}
{{- with lookup "apps/v1" "Deployment" .Release.Namespace (include "minichat.pool" .) -}}
{{- .spec.replicas -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Connections to PostgreSQL of one process: one more than the pool listens. */}}
{{- define "minichat.processConnections" -}}
{{- add1 (dig "database" "max_conns" 10 .Values.pool.config | int) -}}
{{- end }}

{{/* Kinds of jobs that connect to PostgreSQL. */}}
{{- define "minichat.connectedJobs" -}}
{{- $jobs := 0 -}}
{{- if include "minichat.hasWatchdog" . }}{{ $jobs = add1 $jobs }}{{ end -}}
{{- if include "minichat.hasCleanup" . }}{{ $jobs = add1 $jobs }}{{ end -}}
{{- if include "minichat.hasMigrationJob" . }}{{ $jobs = add1 $jobs }}{{ end -}}
{{- $jobs -}}
{{- end }}

{{/* The most connections of the release. During a rolling update, replaced pods finish their streams beside the new ones. */}}
{{- define "minichat.connections" -}}
{{- $generations := ternary 1 2 (eq (dig "type" "" (default dict .Values.pool.strategy)) "Recreate") -}}
{{- $pods := mul $generations (include "minichat.poolMaxReplicas" . | int) -}}
{{- mul (add $pods (include "minichat.connectedJobs" . | int)) (include "minichat.processConnections" . | int) -}}
{{- end }}

{{/* Refuses values with which PostgreSQL could run out of connections. */}}
{{- define "minichat.checkConnections" -}}
{{- $limit := int .Values.database.maxConnections -}}
{{- $needed := include "minichat.connections" . | int -}}
{{- if and $limit (gt $needed $limit) }}
{{- fail (printf "database.maxConnections: %d connections are not enough, because this release could need %d: %s each for %s pods, twice as many during an update, and %s kinds of jobs; raise it with max_connections of PostgreSQL, or lower pool.config.database.max_conns or the number of pods" $limit $needed (include "minichat.processConnections" .) (include "minichat.poolMaxReplicas" .) (include "minichat.connectedJobs" .)) }}
{{- end }}
{{- end }}
