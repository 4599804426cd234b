{{/* Deletes what deleted chats and attachments have at their providers (CONT-170). It has the credentials of the tenants, from
the same source as the pool. The operator makes it of this manifest (D38). */}}
{{- define "minichat.cleanupCronJob" -}}
{{- $call := dig "cleanup_worker" "call_timeout_secs" 30 .Values.pool.config | int }}
{{- $budget := int .Values.cleanup.timeBudgetSeconds }}
{{- if le $budget $call }}
{{- fail (printf "cleanup.timeBudgetSeconds: within %d s no call of a provider could begin, because it may take %d s (pool.config.cleanup_worker.call_timeout_secs), so nothing would be cleaned up; set more than %d, or a lower call_timeout_secs" $budget $call $call) }}
{{- end }}
{{- if le (int .Values.cleanup.activeDeadlineSeconds) (int (add $budget $call)) }}
{{- fail (printf "cleanup.activeDeadlineSeconds: after %d s the clean-up would be killed at work, because its last call may end %d s after it began (timeBudgetSeconds and pool.config.cleanup_worker.call_timeout_secs together); set more than %d, or a lower timeBudgetSeconds" (int .Values.cleanup.activeDeadlineSeconds) (int (add $budget $call)) (int (add $budget $call))) }}
{{- end }}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "minichat.cronJob" (list . "cleanup") }}
  {{- include "minichat.workloadMetadata" (list . "cleanup" .Values.cleanup) | nindent 2 }}
spec:
  schedule: {{ .Values.cleanup.schedule | quote }}
  {{- with .Values.cleanup.timeZone }}
  timeZone: {{ . }}
  {{- end }}
  suspend: {{ .Values.cleanup.suspend }}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {{ .Values.cleanup.startingDeadlineSeconds }}
  {{- include "minichat.jobHistory" . | nindent 2 }}
  jobTemplate:
    metadata:
      labels:
        {{- include "minichat.podLabels" (list . "cleanup") | nindent 8 }}
    spec:
      activeDeadlineSeconds: {{ .Values.cleanup.activeDeadlineSeconds }}
      ttlSecondsAfterFinished: 7200
      backoffLimit: 0
      podReplacementPolicy: Failed
      template:
        metadata:
          labels:
            {{- include "minichat.podLabels" (list . "cleanup") | nindent 12 }}
            {{- with .Values.cleanup.podLabels }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with .Values.cleanup.podAnnotations }}
          annotations:
            {{- toYaml . | nindent 12 }}
          {{- end }}
        spec:
          {{- include "minichat.podBasics" . | nindent 10 }}
          restartPolicy: Never
          terminationGracePeriodSeconds: {{ add $call 15 }}
          serviceAccountName: {{ include "minichat.cleanupServiceAccount" . }}
          automountServiceAccountToken: true
          {{- include "minichat.podSecurityContext" . | nindent 10 }}
          containers:
            - name: cleanup
              image: {{ include "minichat.image" (list . .Values.pool) }}
              imagePullPolicy: {{ .Values.image.pullPolicy }}
              args:
                - cleanup
                - --config=/etc/minichat/config.yaml
                - --time-budget={{ int .Values.cleanup.timeBudgetSeconds }}
              env:
                {{- include "minichat.env" (list "cleanup" (include "minichat.cleanupEnv" .) .Values.cleanup.extraEnv) | nindent 16 }}
              resources:
                {{- toYaml .Values.cleanup.resources | nindent 16 }}
              {{- include "minichat.containerSecurityContext" . | nindent 14 }}
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
                {{- . | nindent 16 }}
                {{- end }}
                {{- with .Values.cleanup.extraVolumeMounts }}
                {{- toYaml . | nindent 16 }}
                {{- end }}
          {{- with include "minichat.placement" (list . "cleanup" .Values.cleanup) | trim }}
          {{- . | nindent 10 }}
          {{- end }}
          {{- with include "minichat.volumes" (list "cleanup" (include "minichat.cleanupVolumes" .) .Values.cleanup.extraVolumes) | trim }}
          {{- . | nindent 10 }}
          {{- end }}
{{- end }}
