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
{{- $config := merge (dict "outbound" $outbound) (deepCopy .Values.pool.config) (dict "drain" $drain) -}}
{{- if .Values.pool.tls.existingSecret }}
{{- $tls := dict "cert_file" "/etc/minichat-tls/tls.crt" "key_file" "/etc/minichat-tls/tls.key" -}}
{{- $_ := set $config "server" (set (default dict $config.server) "tls" $tls) -}}
{{- end }}
{{- if include "minichat.hasMigrationJob" . }}
{{- /* `merge` would take false for a missing value. */}}
{{- $_ := set $config "database" (set (default dict $config.database) "auto_migrate" false) -}}
{{- end }}
{{- toYaml $config -}}
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
    {{- with include "minichat.podAnnotations" (list . .Values.pool) | trim }}
    {{- . | nindent 4 }}
    {{- end }}
spec:
  {{- include "minichat.podBasics" . | nindent 2 }}
  serviceAccountName: {{ include "minichat.poolServiceAccount" . }}
  automountServiceAccountToken: true
  terminationGracePeriodSeconds: {{ include "minichat.terminationGracePeriodSeconds" . }}
  {{- include "minichat.podSecurityContext" . | nindent 2 }}
  containers:
    - name: dataplane
      image: {{ include "minichat.image" (list . .Values.pool) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        - --config=/etc/minichat/config.yaml
      env:
        {{- include "minichat.env" (list "pool" (include "minichat.poolEnv" .) .Values.pool.extraEnv) | nindent 8 }}
      ports:
        - name: http
          containerPort: 8087
        - name: admin
          containerPort: 9090
      {{- include "minichat.probes" . | nindent 6 }}
      resources:
        {{- toYaml .Values.pool.resources | nindent 8 }}
      {{- include "minichat.containerSecurityContext" . | nindent 6 }}
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
        {{- if .Values.pool.tls.existingSecret }}
        - name: tls
          mountPath: /etc/minichat-tls
          readOnly: true
        {{- end }}
        {{- if not (include "minichat.onPostgres" .) }}
        - name: data
          mountPath: /var/lib/minichat
        {{- end }}
        {{- with .Values.pool.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  {{- with include "minichat.placement" (list . "pool" .Values.pool) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "minichat.volumes" (list "pool" (include "minichat.poolVolumes" .) .Values.pool.extraVolumes) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Volumes of the pool's pods, without the one of a claim that the StatefulSet makes. */}}
{{- define "minichat.poolVolumes" -}}
{{ include "minichat.configVolume" . }}
{{- with include "minichat.caVolume" . }}
{{ . }}
{{- end }}
{{- with include "minichat.databaseVolume" . }}
{{ . }}
{{- end }}
{{- with .Values.pool.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- if and (not (include "minichat.onPostgres" .)) .Values.pool.persistence.existingClaim }}
- name: data
  persistentVolumeClaim:
    claimName: {{ .Values.pool.persistence.existingClaim }}
{{- end }}
{{- end }}

{{- define "minichat.configVolume" -}}
- name: config
  configMap:
    name: {{ include "minichat.pool" . }}
{{- end }}

{{- define "minichat.caVolume" -}}
{{- with include "minichat.caBundle" . -}}
- name: ca
  {{- . | nindent 2 }}
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

{{/* Whether `helm test` can say who it is. */}}
{{- define "minichat.hasTest" -}}
{{- $mode := .Values.pool.config.auth.mode -}}
{{- if or .Values.test.tokenSecret.existingSecret (eq $mode "dev") (and (eq $mode "trusted_headers") .Values.test.tenantId) }}true{{ end -}}
{{- end }}
