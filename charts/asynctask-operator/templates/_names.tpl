{{/* The operator's service account as admission sees it. */}}
{{- define "asynctask.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:asynctask-operator
{{- end }}

{{/* The gateway's service account as admission sees it. */}}
{{- define "asynctask.gatewayUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:asynctask-gateway
{{- end }}

{{/* Labels of every object. */}}
{{- define "asynctask.labels" -}}
app.kubernetes.io/name: asynctask-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels that select the pods of a component. */}}
{{- define "asynctask.selector" -}}
app.kubernetes.io/name: asynctask-operator
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "asynctask.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "asynctask.agentImage" -}}
{{ .Values.agent.repository }}:{{ .Values.agent.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "asynctask.claim" -}}
{{ .Values.filesystem.existingClaim | default "asynctask-outputs" }}
{{- end }}

{{/* What the restricted profile asks of a pod. */}}
{{- define "asynctask.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "asynctask.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods may run; with a filesystem store both workloads share a volume and so a node. */}}
{{- define "asynctask.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
