{{/* The pod, which both kinds of workload have. */}}
{{- define "berth.pod" -}}
metadata:
  labels:
    {{- include "berth.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include (print $.Template.BasePath "/secrets.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "berth.serviceAccountName" . }}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
  - name: berth
    image: {{ include "berth.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [serve, --config, /etc/berth/config/berth.yaml]
    {{- if or (include "berth.wantsS3Keys" .) .Values.extraEnv }}
    env:
    {{- if include "berth.wantsS3Keys" . }}
    - name: BERTH_STORAGE_S3_ACCESS_KEY
      valueFrom: {secretKeyRef: {name: {{ include "berth.storesSecret" . }}, key: s3-access-key}}
    {{- end }}
    {{- with .Values.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- end }}
    ports:
    - {name: registry, containerPort: 5000, protocol: TCP}
    - {name: metrics, containerPort: 5001, protocol: TCP}
    # A start may bring the tables of a new version, and waits for the stores.
    startupProbe:
      httpGet: {path: /readyz, port: metrics}
      periodSeconds: 2
      timeoutSeconds: 5
      failureThreshold: 150
    livenessProbe:
      httpGet: {path: /healthz, port: metrics}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: metrics}
      periodSeconds: 5
      timeoutSeconds: 5
    {{- if .Values.preStopSeconds }}
    lifecycle:
      preStop: {sleep: {seconds: {{ .Values.preStopSeconds }}}}
    {{- end }}
    resources: {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
    - {name: data, mountPath: /var/lib/berth}
    - {name: config, mountPath: /etc/berth/config, readOnly: true}
    {{- if or (include "berth.hasDSN" .) (include "berth.wantsS3Keys" .) }}
    - {name: stores, mountPath: /etc/berth/stores, readOnly: true}
    {{- end }}
    {{- if .Values.tls.secretName }}
    - {name: tls, mountPath: /etc/berth/tls, readOnly: true}
    {{- end }}
    {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
  volumes:
  - name: config
    secret: {secretName: {{ include "berth.configSecret" . }}, defaultMode: 0440}
  {{- if or (include "berth.hasDSN" .) (include "berth.wantsS3Keys" .) }}
  - name: stores
    secret: {secretName: {{ include "berth.storesSecret" . }}, defaultMode: 0440}
  {{- end }}
  {{- if .Values.tls.secretName }}
  - name: tls
    secret: {secretName: {{ .Values.tls.secretName }}, defaultMode: 0440}
  {{- end }}
  {{- if eq .Values.mode "replicas" }}
  - name: data
    emptyDir: {sizeLimit: {{ .Values.scratch.sizeLimit }}}
  {{- else if not .Values.persistence.enabled }}
  - name: data
    emptyDir: {}
  {{- else if .Values.persistence.existingClaim }}
  - name: data
    persistentVolumeClaim: {claimName: {{ .Values.persistence.existingClaim }}}
  {{- end }}
  {{- with .Values.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if eq .Values.mode "replicas" }}
  topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "berth.selectorLabels" $ | nindent 8 }}
  {{- end }}
  {{- end }}
{{- end -}}
