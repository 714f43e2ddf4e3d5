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
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
The release that the CRDs are left from, when it is another one; empty without. A cluster has one installation: beside one that is
there the chart is refused.
*/}}
{{- define "asynctask.leftBy" -}}
{{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "asynctasks.asynctask.dev" | default dict }}
{{- $said := dig "metadata" "annotations" dict $crd }}
{{- $name := get $said "meta.helm.sh/release-name" }}
{{- $namespace := get $said "meta.helm.sh/release-namespace" }}
{{- if and $name (or (ne $name .Release.Name) (ne $namespace .Release.Namespace)) }}
{{- if lookup "apps/v1" "Deployment" $namespace "asynctask-operator" }}
{{- fail (printf "this cluster has an asynctask-operator, release %s in namespace %s, and it cannot have two: change that one with `helm upgrade %s -n %s`, or uninstall it first" $name $namespace $name $namespace) }}
{{- end }}
{{- printf "%s/%s" $namespace $name }}
{{- end }}
{{- end }}

{{/* A number of bytes, or a quantity; helm reads large numbers as floats. */}}
{{- define "asynctask.quantity" -}}
{{ if kindIs "string" . }}{{ . }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}

{{/*
Whether the server mutates by policy. Rendered without a cluster, as by a pipeline that commits what it rendered, nobody can be asked: then
the version says it, and where it does not, the rendering stops rather than leave out in silence what each AsyncTask needs.
*/}}
{{- define "asynctask.mutates" -}}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
yes
{{- else if not (lookup "v1" "Namespace" "" "kube-system") -}}
{{- if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
yes
{{- else if not (.Capabilities.APIVersions.Has "asynctask.dev/no-mutating-admission-policies") -}}
{{- fail (printf "rendered without a cluster for Kubernetes %s, which may have no MutatingAdmissionPolicy of version v1: name the version of your cluster with --kube-version (from 1.36 on it has), or say --api-versions admissionregistration.k8s.io/v1/MutatingAdmissionPolicy, or, if it has none, --api-versions asynctask.dev/no-mutating-admission-policies" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- end }}
