{{/* Ends turns that a crashed process left running (TURN-59). The operator makes it of this manifest (D38). */}}
{{- define "minichat.watchdogCronJob" -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "minichat.cronJob" (list . "watchdog") }}
  {{- include "minichat.workloadMetadata" (list . "watchdog" .Values.watchdog) | nindent 2 }}
spec:
  schedule: {{ .Values.watchdog.schedule | quote }}
  {{- with .Values.watchdog.timeZone }}
  timeZone: {{ . }}
  {{- end }}
  suspend: {{ .Values.watchdog.suspend }}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {{ .Values.watchdog.startingDeadlineSeconds }}
  {{- include "minichat.jobHistory" . | nindent 2 }}
  jobTemplate:
    metadata:
      labels:
        {{- include "minichat.podLabels" (list . "watchdog") | nindent 8 }}
    spec:
      activeDeadlineSeconds: {{ .Values.watchdog.activeDeadlineSeconds }}
      ttlSecondsAfterFinished: 7200
      backoffLimit: 0
      podReplacementPolicy: Failed
      template:
        metadata:
          labels:
            {{- include "minichat.podLabels" (list . "watchdog") | nindent 12 }}
            {{- with .Values.watchdog.podLabels }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with .Values.watchdog.podAnnotations }}
          annotations:
            {{- toYaml . | nindent 12 }}
          {{- end }}
        spec:
          {{- include "minichat.podBasics" . | nindent 10 }}
          restartPolicy: Never
          serviceAccountName: {{ include "minichat.watchdogServiceAccount" . }}
          automountServiceAccountToken: true
          {{- include "minichat.podSecurityContext" . | nindent 10 }}
          containers:
            - name: watchdog
              image: {{ include "minichat.image" (list . .Values.pool) }}
              imagePullPolicy: {{ .Values.image.pullPolicy }}
              args:
                - watchdog
                - --config=/etc/minichat/config.yaml
              env:
                {{- include "minichat.env" (list "watchdog" (include "minichat.watchdogEnv" .) .Values.watchdog.extraEnv) | nindent 16 }}
              resources:
                {{- toYaml .Values.watchdog.resources | nindent 16 }}
              {{- include "minichat.containerSecurityContext" . | nindent 14 }}
              volumeMounts:
                - name: config
                  mountPath: /etc/minichat
                  readOnly: true
                {{- with include "minichat.databaseMount" . }}
                {{- . | nindent 16 }}
                {{- end }}
                {{- with .Values.watchdog.extraVolumeMounts }}
                {{- toYaml . | nindent 16 }}
                {{- end }}
          {{- with include "minichat.placement" (list . "watchdog" .Values.watchdog) | trim }}
          {{- . | nindent 10 }}
          {{- end }}
          {{- with include "minichat.volumes" (list "watchdog" (include "minichat.watchdogVolumes" .) .Values.watchdog.extraVolumes) | trim }}
          {{- . | nindent 10 }}
          {{- end }}
{{- end }}
