{{- define "dapo.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "dapo.selector" -}}
app.kubernetes.io/name: dapo
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Of the chart's own objects; those of runs are managed by dapo. */ -}}
{{- define "dapo.labels" -}}
{{ include "dapo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* dict "root" $ "name" "generator" */ -}}
{{- define "dapo.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- $path := $image.repository -}}
{{- with .root.Values.images.registry }}{{ $path = printf "%s/%s" . $path }}{{ end -}}
{{- if $image.digest -}}{{ printf "%s@%s" $path $image.digest }}
{{- else -}}{{ printf "%s:%s" $path (default .root.Chart.AppVersion $image.tag) }}{{ end -}}
{{- end -}}

{{- define "dapo.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "dapo.podSecurity" -}}
{{ toYaml .Values.podSecurityContext }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "dapo.tlsCaSecret" -}}
{{- default .Values.orchestrator.tlsSecret .Values.orchestrator.tlsCaSecret -}}
{{- end -}}

{{- define "dapo.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "dapo.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ default (include "dapo.fullname" .) .Values.serviceAccount.name }}
{{- else -}}{{ default "default" .Values.serviceAccount.name }}{{ end -}}
{{- end -}}

{{- define "dapo.tokenSecret" -}}
{{- default (printf "%s-api" (include "dapo.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "dapo.redisSecret" -}}
{{- if not .Values.redis.enabled -}}
{{ required "redis.external.existingSecret: with redis.enabled=false, name the Secret that has the URL of your Redis" .Values.redis.external.existingSecret }}
{{- else -}}{{ default (printf "%s-redis" (include "dapo.fullname" .)) .Values.redis.existingSecret }}{{ end -}}
{{- end -}}

{{- define "dapo.redisKey" -}}
{{- if .Values.redis.enabled -}}redis-url{{ else }}{{ .Values.redis.external.key }}{{ end -}}
{{- end -}}

{{- define "dapo.runsClaim" -}}
{{- default (printf "%s-runs" (include "dapo.fullname" .)) .Values.runs.existingClaim -}}
{{- end -}}

{{- define "dapo.models.mount" -}}
{{- if .Values.models.existingClaim -}}
- {name: models, mountPath: {{ .Values.models.mountPath | quote }}, readOnly: true}
{{- else -}}
- {name: runs, mountPath: {{ .Values.models.mountPath | quote }}, subPath: models, readOnly: true}
{{- end }}
{{- end -}}

{{- /* Beside the volume of the runs. */ -}}
{{- define "dapo.shared.volumes" -}}
{{- with .Values.models.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: true}
{{- end }}
{{- if and (not .Values.redis.enabled) .Values.redis.external.caSecret }}
- name: redis-ca
  secret: {secretName: {{ .Values.redis.external.caSecret | quote }}}
{{- end }}
{{- end -}}

{{- define "dapo.shared.mounts" -}}
{{ include "dapo.models.mount" . }}
{{- if and (not .Values.redis.enabled) .Values.redis.external.caSecret }}
- {name: redis-ca, mountPath: /etc/dapo/redis, readOnly: true}
{{- end }}
{{- end -}}

{{- /* A field of a pod that is left out where it is empty: dict "name" … "value" … */ -}}
{{- define "dapo.field" -}}
{{- if .value }}
{{ .name }}: {{- if kindIs "string" .value }} {{ .value | quote }}{{ else }}{{ toYaml .value | nindent 2 }}{{ end }}
{{- end }}
{{- end -}}

{{- /* Where pods go; dict of the values of a role. */ -}}
{{- define "dapo.placement" -}}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
{{- include "dapo.field" (dict "name" $name "value" (index $.values $name)) }}
{{- end }}
{{- end -}}

{{- /* The pod template of a role, which the launcher fills for each run: dict "root" $ "role" "generator" */ -}}
{{- define "dapo.podTemplate" -}}
{{- $root := .root -}}{{- $values := index .root.Values .role -}}
metadata:
  labels:
    helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "dapo.pullSecrets" $root | nindent 2 }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  securityContext:
    {{- mergeOverwrite (include "dapo.podSecurity" $root | fromYaml) $values.podSecurityContext | toYaml | nindent 4 }}
  {{- include "dapo.placement" (dict "values" $values) | nindent 2 }}
  {{- with $root.Values.workers.schedulerName }}
  schedulerName: {{ . | quote }}
  {{- end }}
  {{- with $values.resourceClaims }}
  resourceClaims:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: worker
      image: {{ include "dapo.image" (dict "root" $root "name" .role) | quote }}
      imagePullPolicy: {{ $root.Values.images.pullPolicy }}
      securityContext:
        {{- mergeOverwrite (include "dapo.containerSecurity" $root | fromYaml) $values.securityContext | toYaml | nindent 8 }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      env:
        - {name: HOME, value: /tmp}
        - {name: DAPO_LOG_FORMAT, value: {{ $root.Values.logFormat }}}
        - {name: DAPO_METRICS_PORT, value: {{ $root.Values.metrics.port | quote }}}
        {{- with $root.Values.workers.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with $values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.workers.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: metrics, containerPort: {{ $root.Values.metrics.port }}, protocol: TCP}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        {{- include "dapo.shared.mounts" $root | nindent 8 }}
        {{- with $root.Values.workers.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: runs
      persistentVolumeClaim: {claimName: {{ include "dapo.runsClaim" $root | quote }}}
    - {name: tmp, emptyDir: {}}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $values.shmSize | quote }}}}
    {{- include "dapo.shared.volumes" $root | nindent 4 }}
    {{- with $root.Values.workers.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "dapo.kedaAddress" -}}
{{- if .Values.verifier.keda.address -}}{{ .Values.verifier.keda.address }}
{{- else if .Values.redis.enabled -}}{{ include "dapo.fullname" . }}-redis.{{ .Release.Namespace }}.svc:6379
{{- else -}}{{ fail "verifier.keda.address: with redis.enabled=false, give host:port of your Redis" }}{{ end -}}
{{- end -}}

{{- define "dapo.kedaAuthentication" -}}
{{- if .Values.verifier.keda.authentication -}}{{ .Values.verifier.keda.authentication }}
{{- else if .Values.redis.enabled -}}{{ include "dapo.fullname" . }}-redis
{{- else -}}
{{ fail "verifier.keda.authentication: with redis.enabled=false, name a TriggerAuthentication that has the password of your Redis" }}
{{- end -}}
{{- end -}}

{{- /* Of a pod that asks the run service. */ -}}
{{- define "dapo.clientEnv" -}}
- {name: HOME, value: /tmp}
- name: DAPO_URL
  value: {{ printf "%s://%s.%s.svc:%v" (ternary "https" "http" (ne .Values.orchestrator.tlsSecret "")) (include "dapo.fullname" .) .Release.Namespace .Values.service.port | quote }}
- name: DAPO_API_TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "dapo.tokenSecret" . | quote }}, key: {{ .Values.auth.key | quote }}}}
{{- if .Values.orchestrator.tlsSecret }}
- {name: DAPO_TLS_CA, value: /etc/dapo/tls/ca.crt}
{{- end }}
{{- end -}}

{{- define "dapo.clientMounts" -}}
{{- if .Values.orchestrator.tlsSecret }}
- {name: tls, mountPath: /etc/dapo/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "dapo.clientVolumes" -}}
{{- if .Values.orchestrator.tlsSecret }}
- name: tls
  secret: {secretName: {{ include "dapo.tlsCaSecret" . | quote }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}
