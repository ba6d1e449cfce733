{{- define "dspark.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dspark.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "dspark.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dspark.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dspark.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "dspark.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: dspark
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "dspark.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (printf "%s-operator" (include "dspark.fullname" .)) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image from {repository, tag, digest}; call with (dict "image" ... "default" ...). */}}
{{- define "dspark.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .default .image.tag) }}
{{- end }}
{{- end }}

{{- define "dspark.engineImage" -}}
{{- default (printf "dspark-engine:%s" .Chart.AppVersion) .Values.images.engine }}
{{- end }}

{{- define "dspark.serverImage" -}}
{{- default (printf "dspark-server:%s" .Chart.AppVersion) .Values.images.server }}
{{- end }}

{{- define "dspark.instanceName" -}}
{{- default .Release.Name .Values.instance.name | trunc 30 | trimSuffix "-" }}
{{- end }}

{{- define "dspark.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "dspark.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The Secret from which the operator's tokens for control APIs are derived. */}}
{{- define "dspark.controlKeyName" -}}
{{- default (printf "%s-control-key" (include "dspark.fullname" .)) .Values.operator.controlKeySecretName }}
{{- end }}

{{/* ConfigMap by which the instance's gateway is known; empty where it speaks plain HTTP. */}}
{{- define "dspark.instanceAuthority" -}}
{{- $plain := dig "tls" "plainHttp" (list) .Values.instance.spec }}
{{- if not (has "gateway" $plain) }}
{{- dig "tls" "authorityConfigMapName" "" .Values.instance.spec }}
{{- end }}
{{- end }}

{{/* Where the instance's gateway is reached. */}}
{{- define "dspark.instanceUrl" -}}
{{- printf "%s://%s-gateway.%s.svc:%v" (include "dspark.instanceAuthority" . | empty | ternary "http" "https") (include "dspark.instanceName" .) .Release.Namespace (dig "gateway" "service" "port" 80 .Values.instance.spec) }}
{{- end }}

{{/* A pod that runs a few lines of Python as a Helm test; call with (dict "root" . "name" ... "script" ...).
     The script has ask(path, body), which answers with JSON, and the model's name as model. */}}
{{- define "dspark.testPod" -}}
{{- $authority := include "dspark.instanceAuthority" .root }}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "dspark.fullname" .root }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "dspark.labels" .root | nindent 4 }}
    app.kubernetes.io/component: test
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "dspark.podSecurity" .root | nindent 4 }}
  containers:
    - name: {{ .name }}
      image: {{ include "dspark.serverImage" .root }}
      command: [python, -c]
      args:
        - |
          import json, ssl, sys, urllib.request
          url, model, authority = sys.argv[1:]
          trusting = ssl.create_default_context(cafile=authority or None)
          trusting.check_hostname = False  # the service's own authority signs for nothing else
          def ask(path, body=None):
              request = urllib.request.Request(
                  url + path, body and json.dumps(body).encode(),
                  {"content-type": "application/json"})
              return json.load(urllib.request.urlopen(request, timeout=120, context=trusting))
          {{- .script | nindent 10 }}
        - {{ include "dspark.instanceUrl" .root }}
        - {{ dig "model" "name" "" .root.Values.instance.spec | quote }}
        - {{ $authority | empty | ternary "" "/authority/ca.crt" | quote }}
      resources:
        requests:
          cpu: 100m
          memory: 64Mi
        limits:
          memory: 128Mi
      securityContext:
        {{- include "dspark.containerSecurity" .root | nindent 8 }}
      {{- if $authority }}
      volumeMounts:
        - name: authority
          mountPath: /authority
          readOnly: true
  volumes:
    - name: authority
      configMap:
        name: {{ $authority }}
      {{- end }}
{{- end }}

{{/* Annotations of what exists only while the release is uninstalled; call with the weight. */}}
{{- define "dspark.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- define "dspark.uninstallRules" -}}
- apiGroups: [serving.dspark.dev]
  resources: [dsparkservices]
  verbs: [get, list, delete]
{{- end }}

{{/* The namespaces that the operator looks after, as a JSON list. */}}
{{- define "dspark.namespaces" -}}
{{- if .Values.operator.watchNamespaces }}
{{- toJson .Values.operator.watchNamespaces }}
{{- else }}
{{- toJson (list .Release.Namespace) }}
{{- end }}
{{- end }}

{{/* What the operator may do where services are. No Secrets, no Roles, no Nodes. */}}
{{- define "dspark.rules" -}}
- apiGroups: [serving.dspark.dev]
  resources: [dsparkservices, verificationpolicies]
  verbs: [get, list, watch, patch]
- apiGroups: [serving.dspark.dev]
  resources: [dsparkservices/status, verificationpolicies/status]
  verbs: [get, patch]
- apiGroups: [serving.dspark.dev]
  resources: [dsparkservices/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [serviceaccounts, configmaps, services, persistentvolumeclaims]
  verbs: [get, list, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies, ingresses]
  verbs: [get, list, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors, podmonitors, prometheusrules]
  verbs: [get, list, create, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, create, patch, delete]
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, create, patch, delete]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, patch]
{{- end }}
