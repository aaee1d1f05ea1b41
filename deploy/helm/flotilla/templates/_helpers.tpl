{{/* The name of everything: flotilla, RELEASE-flotilla, or RELEASE if that says it. */}}
{{- define "flotilla.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "flotilla.selector" -}}
app.kubernetes.io/name: flotilla
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flotilla.labels" -}}
{{ include "flotilla.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "flotilla.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* 7/8 of the limit of memory. */}}
{{- define "flotilla.gomemlimit" -}}
{{- $limit := .Values.resources.limits.memory }}
{{- $mib := trimSuffix "Mi" $limit }}
{{- if hasSuffix "Gi" $limit }}{{ $mib = mul 1024 (trimSuffix "Gi" $limit | int64) }}{{ end }}
{{- div (mul 7 (int64 $mib)) 8 }}MiB
{{- end }}

{{/* The settings file. */}}
{{- define "flotilla.settings" -}}
{{- $s := dict "peer-addr" ":7400" "http-addr" ":7402" "join" (printf "%s-headless" (include "flotilla.name" .)) "expect" .Values.expect }}
{{- if .Values.tls.enabled }}
{{- $_ := set $s "mqtt-addr" "localhost:1883" }}
{{- $_ := set $s "tls-addr" ":8883" }}
{{- $_ := set $s "cert" "/etc/flotilla/tls/tls.crt" }}
{{- $_ := set $s "key" "/etc/flotilla/tls/tls.key" }}
{{- if .Values.tls.clientCertificates }}{{ $_ := set $s "client-ca" "/etc/flotilla/tls/ca.crt" }}{{ end }}
{{- else }}
{{- $_ := set $s "mqtt-addr" ":1883" }}
{{- end }}
{{- if .Values.peerTLS.enabled }}
{{- $_ := set $s "peer-cert" "/etc/flotilla/peer/tls.crt" }}
{{- $_ := set $s "peer-key" "/etc/flotilla/peer/tls.key" }}
{{- $_ := set $s "peer-ca" "/etc/flotilla/peer/ca.crt" }}
{{- $_ := set $s "gossip-key-file" "/etc/flotilla/gossip/keys" }}
{{- end }}
{{- if .Values.auth.anonymous }}
{{- $_ := set $s "allow-anonymous" true }}
{{- else }}
{{- $_ := set $s "password-file" "/etc/flotilla/users/passwords" }}
{{- if .Values.auth.rules }}{{ $_ := set $s "acl-file" "/etc/flotilla/users/rules" }}{{ end }}
{{- end }}
{{- merge $s .Values.settings | toYaml }}
{{- end }}

{{/* The Secrets that are mounted below /etc/flotilla: folder and name. */}}
{{- define "flotilla.secrets" -}}
{{- if not .Values.auth.anonymous }}
users: {{ .Values.auth.secret }}
{{- end }}
{{- if .Values.tls.enabled }}
tls: {{ .Values.tls.secret }}
{{- end }}
{{- if .Values.peerTLS.enabled }}
peer: {{ .Values.peerTLS.secret }}
gossip: {{ .Values.peerTLS.gossipSecret }}
{{- end }}
{{- end }}
