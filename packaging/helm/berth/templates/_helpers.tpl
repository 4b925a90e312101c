{{- define "berth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 52 characters, so that a StatefulSet can still number its pods. */}}
{{- define "berth.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "berth.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "berth.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "berth.selectorLabels" -}}
app.kubernetes.io/name: {{ include "berth.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "berth.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "berth.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "berth.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "berth.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "berth.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "berth.replicas" -}}
{{- if not (kindIs "invalid" .Values.replicas) -}}
{{- int .Values.replicas -}}
{{- else if eq .Values.mode "replicas" -}}
3
{{- else -}}
1
{{- end -}}
{{- end -}}

{{- define "berth.configSecret" -}}
{{- default (printf "%s-config" (include "berth.fullname" .)) .Values.existingConfigSecret -}}
{{- end -}}

{{- define "berth.storesSecret" -}}
{{- default (printf "%s-stores" (include "berth.fullname" .)) .Values.stores.existingSecret -}}
{{- end -}}

{{/* Whether a DSN, and keys of S3, are in a Secret: "true" or nothing. */}}
{{- define "berth.hasDSN" -}}
{{- if .Values.stores.existingSecret -}}
{{- if .Values.stores.existing.postgres }}true{{ end -}}
{{- else if .Values.stores.postgresDSN }}true{{ end -}}
{{- end -}}
{{- define "berth.hasS3Keys" -}}
{{- if .Values.stores.existingSecret -}}
{{- if .Values.stores.existing.s3 }}true{{ end -}}
{{- else if .Values.stores.s3AccessKey }}true{{ end -}}
{{- end -}}

{{/* What cannot be is refused here, before anything is made of it. */}}
{{- define "berth.check" -}}
{{- $storage := default (dict) .Values.config.storage -}}
{{- $s3 := default (dict) $storage.s3 -}}
{{- if eq .Values.mode "single" -}}
{{- if gt (int (include "berth.replicas" .)) 1 }}{{ fail "mode single is one server: for more, set mode to replicas, with S3 and PostgreSQL" }}{{ end -}}
{{- if .Values.autoscaling.enabled }}{{ fail "autoscaling wants mode replicas" }}{{ end -}}
{{- else if not .Values.existingConfigSecret -}}
{{- if not $s3.bucket }}{{ fail "mode replicas wants S3: set config.storage.s3.bucket" }}{{ end -}}
{{- if not (include "berth.hasDSN" .) }}{{ fail "mode replicas wants PostgreSQL: set stores.postgresDSN, or stores.existingSecret" }}{{ end -}}
{{- end -}}
{{- if ne (empty .Values.stores.s3AccessKey) (empty .Values.stores.s3SecretKey) }}{{ fail "set both stores.s3AccessKey and stores.s3SecretKey, or neither" }}{{ end -}}
{{- if and .Values.stores.existingSecret (or .Values.stores.postgresDSN .Values.stores.s3AccessKey) }}{{ fail "stores.existingSecret excludes the other secrets of stores" }}{{ end -}}
{{- if and .Values.existingConfigSecret .Values.config }}{{ fail "existingConfigSecret excludes config" }}{{ end -}}
{{- if and (include "berth.hasS3Keys" .) (not $s3.bucket) (not .Values.existingConfigSecret) (not .Values.stores.existingSecret) }}{{ fail "the keys of S3 want config.storage.s3.bucket" }}{{ end -}}
{{- range list "access_key" "secret_key" "secret_key_file" }}{{ if get $s3 . }}{{ fail (printf "config.storage.s3.%s: set it in stores" .) }}{{ end }}{{ end -}}
{{- range list "dsn" "dsn_file" }}{{ if get (default (dict) $storage.postgres) . }}{{ fail (printf "config.storage.postgres.%s: set it in stores" .) }}{{ end }}{{ end -}}
{{- if or (dig "http" "addr" "" .Values.config) $storage.data (dig "metrics" "addr" "" .Values.config) }}{{ fail "http.addr, metrics.addr and storage.data are the chart's: leave them out of config" }}{{ end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}{{ fail "ingress wants ingress.hosts" }}{{ end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}{{ fail "httpRoute wants httpRoute.parentRefs" }}{{ end -}}
{{- end -}}

{{/* The file that berth reads. */}}
{{- define "berth.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $ours := dict "http" (dict "addr" ":5000") "metrics" (dict "addr" ":5001") "storage" (dict "data" "/var/lib/berth") -}}
{{- if include "berth.hasDSN" . }}{{ $_ := set $ours.storage "postgres" (dict "dsn_file" "/etc/berth/stores/postgres-dsn") }}{{ end -}}
{{- $bucket := dig "storage" "s3" "bucket" "" .Values.config -}}
{{- if and $bucket (include "berth.hasS3Keys" .) }}{{ $_ := set $ours.storage "s3" (dict "secret_key_file" "/etc/berth/stores/s3-secret-key") }}{{ end -}}
{{- if .Values.tls.secretName }}{{ $_ := set $ours.http "tls" (dict "cert" "/etc/berth/tls/tls.crt" "key" "/etc/berth/tls/tls.key") }}{{ end -}}
{{- mergeOverwrite $config $ours | toYaml -}}
{{- end -}}

{{/* Whether the access key of S3 is given by environment. */}}
{{- define "berth.wantsS3Keys" -}}
{{- if and (include "berth.hasS3Keys" .) (or .Values.existingConfigSecret (dig "storage" "s3" "bucket" "" .Values.config)) }}true{{ end -}}
{{- end -}}
