{{/* Labels of Helm's own, which every object of the chart has on top of those in config/. */}}
{{- define "leasehold.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
{{- end -}}

{{/*
Every object in the files of a folder of files/, which are those of config/, as they are but for labels and namespace.
Expects a list: what `.` is in a template, a pattern of paths, and more labels if there are any.
*/}}
{{- define "leasehold.objects" -}}
{{- $top := index . 0 -}}
{{- $own := include "leasehold.labels" $top | fromYaml -}}
{{- $more := dict -}}
{{- if gt (len .) 2 }}{{ $more = index . 2 }}{{ end -}}
{{- range $path, $_ := $top.Files.Glob (index . 1) }}
{{- range $document := regexSplit "(?m)^---\\s*$" ($top.Files.Get $path) -1 }}
{{- $object := fromYaml $document }}
{{- if $object.kind }}
{{- $labels := merge (dict) ($object.metadata.labels | default dict) $own $more }}
{{- $_ := set $object.metadata "labels" $labels }}
{{- if $object.metadata.namespace }}
{{- $_ := set $object.metadata "namespace" $top.Release.Namespace }}
{{- end }}
{{- range $object.subjects }}
{{- $_ := set . "namespace" $top.Release.Namespace }}
{{- end }}
{{- if eq $object.kind "CustomResourceDefinition" }}
{{- $kept := merge (dict "helm.sh/resource-policy" "keep") ($object.metadata.annotations | default dict) }}
{{- $_ := set $object.metadata "annotations" $kept }}
{{- end }}
---
{{ toYaml $object }}
{{ end }}
{{- end }}
{{- end }}
{{- end -}}
