{{- define "scraperd.name" -}}
{{- if contains "scraperd" .Release.Name -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-scraperd" (.Release.Name | trunc 44 | trimSuffix "-") }}
{{- end -}}
{{- end -}}

{{- define "scraperd.selector" -}}
app.kubernetes.io/name: scraperd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "scraperd.labels" -}}
{{ include "scraperd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
