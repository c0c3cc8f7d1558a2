{{/*
What turns any pod into one with the sidecar. A chart of yours lists this one as a dependency, gives it its values under
`idtoken-sidecar:`, and has in its pod's spec

    spec:
      {{- include "idtoken-sidecar.pod" . | nindent 6 }}
      containers:
        - name: app
          env:
            {{- include "idtoken-sidecar.urls" . | nindent 12 }}

Where the configuration has `intercept` (docs/how-to/intercept.md), "idtoken-sidecar.urls" leads the app's https through the sidecar,
too, and the app needs the CAs that the sidecar writes:

          volumeMounts:
            {{- include "idtoken-sidecar.mounts" . | nindent 12 }}

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
    {{- with include "idtoken-sidecar.bundle" . }}
    - {name: idtoken-sidecar-ca, mountPath: {{ dir . }}}
    {{- end }}
{{- end }}

{{- define "idtoken-sidecar.volume" -}}
- name: idtoken-sidecar
  configMap: {name: {{ include "idtoken-sidecar.configMapName" . }}}
{{- if include "idtoken-sidecar.bundle" . }}
- name: idtoken-sidecar-ca # the CAs that the app trusts
  emptyDir: {medium: Memory, sizeLimit: 2Mi}
{{- end }}
{{- end }}

{{/* The file of CAs that the app is to trust; empty where its https is not read. */}}
{{- define "idtoken-sidecar.bundle" -}}
{{- $config := (include "idtoken-sidecar.values" . | fromJson).config -}}
{{- $is_read := hasKey $config "google_token_endpoints" -}}
{{- range $config.routes -}}{{- if .intercept -}}{{- $is_read = true -}}{{- end -}}{{- end -}}
{{- if $is_read -}}{{- dig "intercept" "bundle_file" "" $config -}}{{- end -}}
{{- end }}

{{/* For the app's `volumeMounts`. */}}
{{- define "idtoken-sidecar.mounts" -}}
{{- with include "idtoken-sidecar.bundle" . -}}
- {name: idtoken-sidecar-ca, mountPath: {{ dir . }}, readOnly: true}
{{- else -}}
[]
{{- end -}}
{{- end }}

{{/* The shared listener, as the app's proxy. */}}
{{- define "idtoken-sidecar.proxy" -}}
{{- $config := (include "idtoken-sidecar.values" . | fromJson).config -}}
{{- $listen := $config.listen | default "localhost:8787" -}}
{{- if not (kindIs "slice" $listen) -}}{{- $listen = list $listen -}}{{- end -}}
{{- $found := "" -}}
{{- range $listen -}}
{{- $address := . -}}
{{- if kindIs "map" . -}}{{- $address = ternary "" .address (or (.intercept | default false) (hasKey . "tls")) -}}{{- end -}}
{{- if and (not $found) (regexMatch "^(localhost|127\\.0\\.0\\.1):[0-9]+$" ($address | toString)) -}}
{{- $found = $address | splitList ":" | last | printf "http://localhost:%s" -}}
{{- end -}}
{{- end -}}
{{- required "idtoken-sidecar: intercept needs a shared listener on loopback without tls, such as `listen: localhost:8787`" $found -}}
{{- end }}

{{- define "idtoken-sidecar.pod" -}}
terminationGracePeriodSeconds: 30
initContainers:
  {{- include "idtoken-sidecar.container" . | nindent 2 }}
volumes:
  {{- include "idtoken-sidecar.volume" . | nindent 2 }}
{{- end }}

{{/* For the app's `env`: IDTOKEN_SIDECAR_URL_BILLING and the like, of each route whose `listen` is a port of loopback; and what
`exec --transparent` sets, where https is read. */}}
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
{{- $bundle := include "idtoken-sidecar.bundle" . -}}
{{- if $bundle -}}
{{- $proxy := include "idtoken-sidecar.proxy" . -}}
{{- $direct := "localhost,.localhost,127.0.0.1,::1,169.254.169.254,metadata.google.internal" -}}
{{- range list "HTTP_PROXY" "http_proxy" -}}{{- $found = append $found (dict "name" . "value" $proxy) -}}{{- end -}}
{{- range list "NO_PROXY" "no_proxy" -}}{{- $found = append $found (dict "name" . "value" $direct) -}}{{- end -}}
{{- range list "HTTPS_PROXY" "https_proxy" -}}{{- $found = append $found (dict "name" . "value" $proxy) -}}{{- end -}}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "CURL_CA_BUNDLE" "NODE_EXTRA_CA_CERTS" "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" -}}
{{- $found = append $found (dict "name" . "value" $bundle) -}}
{{- end -}}
{{- $found = append $found (dict "name" "NODE_USE_ENV_PROXY" "value" "1") -}}
{{- end -}}
{{- $found | toYaml -}}
{{- end }}
