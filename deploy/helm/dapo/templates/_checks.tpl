{{- /* What no schema can tell; refused before anything is installed. */ -}}
{{- define "dapo.checks" -}}
{{- if contains "." .Release.Name }}
{{- fail (printf "the release's name %s: take one without dots" .Release.Name) }}
{{- end }}
{{- range $role := list "generator" "verifier" }}
{{- with (index $.Values $role).keda }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "%s.keda.minReplicas: %v is more than maxReplicas, %v" $role .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.redis }}
{{- $limit := include "dapo.bytes" (dig "limits" "memory" "" .resources) | int64 }}
{{- if and .enabled $limit (lt $limit (include "dapo.bytes" .maxmemory | int64)) }}
{{- fail (printf "redis.resources.limits.memory: %s is less than redis.maxmemory, %s; give a third more than that" .resources.limits.memory .maxmemory) }}
{{- end }}
{{- end }}
{{- with .Values.orchestrator.tlsSecret }}
{{- $name := include "dapo.tlsCaSecret" $ }}
{{- $secret := lookup "v1" "Secret" $.Release.Namespace $name }}
{{- if and $secret (not (hasKey ($secret.data | default dict) "ca.crt")) }}
{{- fail (printf "orchestrator.tlsCaSecret: Secret %s has no key ca.crt; name one that has the CA of the certificate" $name) }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Of a size as `6gb` or `8Gi`; 0 of one in other units. */ -}}
{{- define "dapo.bytes" -}}
{{- $text := lower (toString .) | trimSuffix "b" | trimSuffix "i" -}}
{{- if hasSuffix "g" $text -}}{{ mul (trimSuffix "g" $text | int64) 1073741824 }}
{{- else if hasSuffix "m" $text -}}{{ mul (trimSuffix "m" $text | int64) 1048576 }}
{{- else -}}0{{ end -}}
{{- end -}}
