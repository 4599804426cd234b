{{/* The pod of the pool, the same in the Deployment on PostgreSQL and the StatefulSet on SQLite. */}}

{{- define "minichat.onPostgres" -}}
{{- if .Values.database.existingSecret }}true{{ end -}}
{{- end }}

{{/* Seconds for which open streams may continue. On SQLite the API is down meanwhile; on PostgreSQL other pods serve (D50). */}}
{{- define "minichat.drainMaxSecs" -}}
{{- $default := ternary 300 20 (eq (include "minichat.onPostgres" .) "true") -}}
{{- dig "drain" "max_secs" $default .Values.pool.config | int -}}
{{- end }}

{{/* drain.min + drain.max + 15, so that the kubelet never kills a pod during its drain (K8S-50). */}}
{{- define "minichat.terminationGracePeriodSeconds" -}}
{{- add (int .Values.pool.config.drain.min_secs) (include "minichat.drainMaxSecs" . | int) 15 -}}
{{- end }}

{{/* The process configuration, with the settings that depend on the database and those that have their own values. */}}
{{- define "minichat.poolConfig" -}}
{{- $drain := dict "max_secs" (include "minichat.drainMaxSecs" . | int) -}}
{{- $outbound := dict "allow_private" .Values.outbound.allowPrivate -}}
{{- if include "minichat.caBundle" . }}
{{- $_ := set $outbound "ca_file" (printf "/etc/minichat-ca/%s" .Values.outbound.caBundle.key) -}}
{{- end }}
{{- with .Values.outbound.noProxy }}
{{- $_ := set $outbound "no_proxy" . -}}
{{- end }}
{{- toYaml (merge (dict "outbound" $outbound) (deepCopy .Values.pool.config) (dict "drain" $drain)) -}}
{{- end }}

{{/* The volume of certificates, if there is one. */}}
{{- define "minichat.caBundle" -}}
{{- with .Values.outbound.caBundle -}}
{{- if .existingConfigMap -}}
configMap:
  name: {{ .existingConfigMap }}
{{- else if .existingSecret -}}
secret:
  secretName: {{ .existingSecret }}
{{- end }}
{{- end }}
{{- end }}

{{/* Certificates for PostgreSQL, if there are any: a volume of all pods that connect to it, and where it is mounted. */}}
{{- define "minichat.databaseVolume" -}}
{{- with .Values.database.certificates -}}
{{- if .existingConfigMap -}}
- name: database-certificates
  configMap:
    name: {{ .existingConfigMap }}
{{- else if .existingSecret -}}
- name: database-certificates
  secret:
    secretName: {{ .existingSecret }}
{{- end }}
{{- end }}
{{- end }}

{{- define "minichat.databaseMount" -}}
{{- if include "minichat.databaseVolume" . -}}
- name: database-certificates
  mountPath: /etc/minichat-database
  readOnly: true
{{- end }}
{{- end }}

{{- define "minichat.poolPod" -}}
metadata:
  labels:
    {{- include "minichat.podLabels" (list . "pool") | nindent 4 }}
    minichat.dev/pool: {{ .Values.pool.name }}
    {{- with .Values.pool.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "minichat.poolConfig" . | sha256sum }}
    {{- with .Values.pool.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "minichat.podBasics" . | nindent 2 }}
  serviceAccountName: {{ include "minichat.poolServiceAccount" . }}
  automountServiceAccountToken: true
  terminationGracePeriodSeconds: {{ include "minichat.terminationGracePeriodSeconds" . }}
  securityContext:
    {{- include "minichat.podSecurityContext" . | nindent 4 }}
    {{- if not (include "minichat.onPostgres" .) }}
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    {{- end }}
  containers:
    - name: dataplane
      image: {{ include "minichat.image" (list . .Values.pool.image.repository) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        - --config=/etc/minichat/config.yaml
      env:
        {{- include "minichat.poolEnv" . | nindent 8 }}
      ports:
        - name: http
          containerPort: 8087
        - name: admin
          containerPort: 9090
      {{- include "minichat.probes" . | nindent 6 }}
      resources:
        {{- toYaml .Values.pool.resources | nindent 8 }}
      securityContext:
        {{- include "minichat.containerSecurityContext" . | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/minichat
          readOnly: true
        {{- if include "minichat.caBundle" . }}
        - name: ca
          mountPath: /etc/minichat-ca
          readOnly: true
        {{- end }}
        {{- with include "minichat.databaseMount" . }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- if not (include "minichat.onPostgres" .) }}
        - name: data
          mountPath: /var/lib/minichat
        {{- end }}
  {{- with include "minichat.placement" .Values.pool }}
  {{- . | nindent 2 }}
  {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "minichat.pool" . }}
    {{- with include "minichat.caBundle" . }}
    - name: ca
      {{- . | nindent 6 }}
    {{- end }}
    {{- with include "minichat.databaseVolume" . }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "minichat.poolEnv" -}}
- name: MINICHAT_SOURCE_POOL
  value: {{ .Values.pool.name | quote }}
{{ include "minichat.databaseEnv" . }}
{{ include "minichat.sharedSecretEnv" . }}
{{ include "minichat.proxyEnv" . }}
{{- end }}

{{/* The proxy's URL may contain a password, so it is never in the ConfigMap. */}}
{{- define "minichat.proxyEnv" -}}
{{- with .Values.outbound }}
{{- if .proxySecret.existingSecret -}}
- name: MINICHAT_OUTBOUND_PROXY
  valueFrom:
    secretKeyRef:
      name: {{ .proxySecret.existingSecret }}
      key: {{ .proxySecret.secretKey }}
{{- else if .proxy -}}
- name: MINICHAT_OUTBOUND_PROXY
  value: {{ .proxy | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "minichat.databaseEnv" -}}
- name: MINICHAT_DATABASE_URL
  {{- if include "minichat.onPostgres" . }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.secretKey }}
{{- with .Values.database.listenSecretKey }}
- name: MINICHAT_DATABASE_LISTEN_URL
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.database.existingSecret }}
      key: {{ . }}
{{- end }}
  {{- else }}
  value: sqlite:///var/lib/minichat/minichat.db
  {{- end }}
{{- end }}

{{- define "minichat.sharedSecretEnv" -}}
{{- with .Values.pool.sharedSecret }}
{{- if .existingSecret -}}
- name: MINICHAT_AUTH_SHARED_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .secretKey }}
{{- end }}
{{- end }}
{{- end }}

{{/* Path of the API (API-1). */}}
{{- define "minichat.basePath" -}}
{{- $config := .Values.pool.config -}}
{{- dig "server" "root_prefix" "" $config }}{{ default "/mini-chat" $config.url_prefix }}/v1
{{- end }}
