{{- /* The name of what the chart makes. */ -}}
{{- define "quartermaster.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* What the pods of this release are found by. It never changes, or a Deployment could not be upgraded. */ -}}
{{- define "quartermaster.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "quartermaster.labels" -}}
{{ include "quartermaster.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "quartermaster.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "quartermaster.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: name the ServiceAccount that the operator runs as, or let serviceAccount.create be true" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "quartermaster.image" -}}
{{- $repository := required "image.repository: no image of Quartermaster is published yet; name the repository of one that you have built" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* The operator's configuration file. Two releases in one namespace must not share a Lease: only one of them would act. */ -}}
{{- define "quartermaster.configuration" -}}
{{- $election := .Values.configuration.leaderElection | default dict -}}
{{- if and (eq (toString $election.enabled) "false") (gt (int .Values.replicas) 1) -}}
{{- fail "configuration.leaderElection.enabled: without leader election every replica acts; use replicas: 1" -}}
{{- end -}}
{{- $defaults := dict "leaderElection" (dict "leaseName" (include "quartermaster.fullname" .)) -}}
{{- $_ := set $defaults "gateway" (dict "image" (include "quartermaster.image" .)) -}}
{{- merge (deepCopy .Values.configuration) $defaults | toYaml -}}
{{- end -}}

{{- /* The port of the admin server. */ -}}
{{- define "quartermaster.adminPort" -}}
{{- dig "admin" "listen" "0.0.0.0:8080" .Values.configuration | regexFind "[0-9]+$" -}}
{{- end -}}
