{{/*
What turns any pod into one with the sidecar. A chart of yours lists this one as a dependency, gives it its values under
`idtoken-sidecar:`, and has in its pod's spec

    spec:
      {{- include "idtoken-sidecar.pod" . | nindent 6 }}
      containers:
        - name: app
          env:
            {{- include "idtoken-sidecar.urls" . | nindent 12 }}

Where the pod has init containers or volumes of its own, include "idtoken-sidecar.container" and "idtoken-sidecar.volume" in
those lists instead of "idtoken-sidecar.pod"; with "idtoken-sidecar.annotations" on the pod a changed configuration rolls the
pods, with "idtoken-sidecar.labels" monitoring finds them. Each takes the root context.
*/}}

{{- define "idtoken-sidecar.values" -}}
{{- if eq .Chart.Name "idtoken-sidecar" -}}
{{- .Values | toJson -}}
{{- else -}}
{{- required "idtoken-sidecar: its values belong under `idtoken-sidecar:`" (index .Values "idtoken-sidecar") | toJson -}}
{{- end -}}
{{- end }}

{{- define "idtoken-sidecar.configMapName" -}}
{{ printf "%s-idtoken-sidecar" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "idtoken-sidecar.configMap" -}}
{{- $values := include "idtoken-sidecar.values" . | fromJson -}}
{{- if not $values.config.routes -}}{{- fail "idtoken-sidecar: give the sidecar its routes: config.routes" -}}{{- end -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "idtoken-sidecar.configMapName" . }}
data:
  config.yaml: |
    {{- $values.config | toYaml | nindent 4 }}
{{- end }}

{{- define "idtoken-sidecar.labels" -}}
idtoken-sidecar: "true"
{{- end }}

{{- define "idtoken-sidecar.annotations" -}}
{{- $values := include "idtoken-sidecar.values" . | fromJson -}}
idtoken-sidecar/config: {{ $values.config | toJson | sha256sum }}
{{- end }}

{{- define "idtoken-sidecar.container" -}}
{{- $values := include "idtoken-sidecar.values" . | fromJson -}}
- name: idtoken-sidecar
  image: {{ required "idtoken-sidecar: give the sidecar's image: --set image=… (idtoken-sidecar.image in a chart that includes it)" $values.image }}
  {{- with $values.imagePullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  restartPolicy: Always # a native sidecar: up before the app's containers, stopped after them
  args: ["run", "--config=/etc/idtoken-sidecar/config.yaml"]
  env:
    # The kubelet and Prometheus come by the pod's address; the proxy itself stays on loopback.
    - name: IDTOKEN_SIDECAR_ADMIN
      value: "0.0.0.0:{{ $values.adminPort }}"
    {{- with $values.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: idtoken-admin, containerPort: {{ $values.adminPort }}}
  startupProbe:
    httpGet: {path: /healthz/startup, port: idtoken-admin}
    periodSeconds: 1
    failureThreshold: {{ $values.startupSeconds }}
  livenessProbe:
    httpGet: {path: /healthz/live, port: idtoken-admin}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    httpGet: {path: /healthz/ready, port: idtoken-admin}
    periodSeconds: 5
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    runAsNonRoot: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
    readOnlyRootFilesystem: true
    runAsUser: 65532
    runAsGroup: 65532
  volumeMounts:
    - {name: idtoken-sidecar, mountPath: /etc/idtoken-sidecar, readOnly: true}
{{- end }}

{{- define "idtoken-sidecar.volume" -}}
- name: idtoken-sidecar
  configMap: {name: {{ include "idtoken-sidecar.configMapName" . }}}
{{- end }}

{{- define "idtoken-sidecar.pod" -}}
terminationGracePeriodSeconds: 30
initContainers:
  {{- include "idtoken-sidecar.container" . | nindent 2 }}
volumes:
  {{- include "idtoken-sidecar.volume" . | nindent 2 }}
{{- end }}

{{/* For the app's `env`: IDTOKEN_SIDECAR_URL_BILLING and the like, of each route whose `listen` is a port of loopback. */}}
{{- define "idtoken-sidecar.urls" -}}
{{- $values := include "idtoken-sidecar.values" . | fromJson -}}
{{- $found := list -}}
{{- range $values.config.routes -}}
{{- $listen := .listen | default "" -}}
{{- if kindIs "slice" $listen -}}{{- $listen = first $listen -}}{{- end -}}
{{- if regexMatch "^(localhost|127\\.0\\.0\\.1):[0-9]+$" ($listen | toString) -}}
{{- $name := .name | upper | replace "-" "_" | printf "IDTOKEN_SIDECAR_URL_%s" -}}
{{- $found = append $found (dict "name" $name "value" ($listen | splitList ":" | last | printf "http://localhost:%s")) -}}
{{- end -}}
{{- end -}}
{{- $found | toYaml -}}
{{- end }}
