package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// kubernetes is the version that the chart is rendered for: helm itself knows one only
// if it was built to.
const kubernetes = "--kube-version=1.34.0"

const (
	chartStores = "\nstores: {postgresDSN: \"postgres://berth:dsn-secret@db/berth\", s3AccessKey: key, s3SecretKey: s3-secret}\n"
	chartMany   = "mode: replicas\nconfig: {storage: {s3: {bucket: images, endpoint: \"https://s3.example.com\"}, upload_expiry: 48h}}" + chartStores
)

// TestChart renders the Helm chart with values of all kinds: a cluster would take what
// comes out, and berth the configuration in it.
func TestChart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values string
		kinds  string // of what is made, sorted, with commas
		facts  map[string]string
	}{
		"nothing set": {
			kinds: "Secret,Service,Service,ServiceAccount,StatefulSet",
			facts: map[string]string{
				"StatefulSet.spec.replicas": "1",
				"StatefulSet.spec.volumeClaimTemplates.0.spec.resources.requests.storage":     "100Gi",
				"StatefulSet.spec.template.spec.containers.0.image":                           "berth:dev",
				"StatefulSet.spec.template.spec.containers.0.readinessProbe.httpGet.path":     "/readyz",
				"StatefulSet.spec.template.spec.containers.0.livenessProbe.httpGet.path":      "/healthz",
				"StatefulSet.spec.template.spec.containers.0.securityContext.privileged":      "",
				"Secret.stringData.berth\\.yaml.storage.data":                                 "/var/lib/berth",
				"Secret.stringData.berth\\.yaml.storage.s3":                                   "",
				"StatefulSet.spec.template.spec.topologySpreadConstraints":                    "",
				"StatefulSet.spec.template.spec.containers.0.lifecycle.preStop.sleep.seconds": "5",
			},
		},
		"many servers": {
			values: chartMany,
			kinds:  "Deployment,PodDisruptionBudget,Secret,Secret,Service,Service,ServiceAccount",
			facts: map[string]string{
				"Deployment.spec.replicas":                                              "3",
				"Deployment.spec.strategy.rollingUpdate.maxUnavailable":                 "0",
				"Deployment.spec.template.spec.volumes.2.emptyDir.sizeLimit":            "10Gi",
				"Deployment.spec.template.spec.topologySpreadConstraints.1.topologyKey": "topology.kubernetes.io/zone",
				"Secret.stringData.berth\\.yaml.storage.s3.secret_key_file":             "/etc/berth/stores/s3-secret-key",
				"Secret.stringData.berth\\.yaml.storage.postgres.dsn_file":              "/etc/berth/stores/postgres-dsn",
				"Secret.stringData.berth\\.yaml.storage.upload_expiry":                  "48h",
			},
		},
		"secrets that are there, a role for S3, TLS": {
			values: "mode: replicas\nreplicas: 5\nconfig: {storage: {s3: {bucket: images}}}\nstores: {existingSecret: mine, existing: {s3: false}}\ntls: {secretName: cert}\nserviceAccount: {annotations: {role: r}}",
			kinds:  "Deployment,PodDisruptionBudget,Secret,Service,Service,ServiceAccount",
			facts: map[string]string{
				"Deployment.spec.replicas":                                  "5",
				"Deployment.spec.template.spec.containers.0.env":            "",
				"Secret.stringData.berth\\.yaml.storage.s3.secret_key_file": "",
				"Secret.stringData.berth\\.yaml.http.tls.cert":              "/etc/berth/tls/tls.crt",
				"Deployment.spec.template.spec.volumes.1.secret.secretName": "mine",
				"ServiceAccount.metadata.annotations.role":                  "r",
			},
		},
		"a configuration that is there": {
			values: "mode: replicas\nexistingConfigSecret: mine\nstores: {existingSecret: theirs}\npodDisruptionBudget: {enabled: false}",
			kinds:  "Deployment,Service,Service,ServiceAccount",
			facts: map[string]string{
				"Deployment.spec.template.spec.volumes.0.secret.secretName": "mine",
				"Deployment.spec.template.spec.containers.0.env.0.name":     "BERTH_STORAGE_S3_ACCESS_KEY",
			},
		},
		"all that can be had": {
			values: chartMany + `
autoscaling: {enabled: true}
ingress: {enabled: true, className: nginx, annotations: {a: b}, hosts: [registry.example.com], tls: [{secretName: cert, hosts: [registry.example.com]}]}
httpRoute: {enabled: true, annotations: {a: b}, parentRefs: [{name: gateway}], hostnames: [registry.example.com]}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
image: {repository: registry.example.com/berth, digest: "sha256:` + strings.Repeat("a", 64) + `", pullSecrets: [{name: pull}]}
service: {type: LoadBalancer, port: 443, annotations: {a: b}}
podAnnotations: {a: b}
podLabels: {a: b}
nodeSelector: {a: b}
tolerations: [{key: a, operator: Exists}]
affinity: {podAntiAffinity: {}}
priorityClassName: high
topologySpreadConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
extraEnv: [{name: HTTPS_PROXY, value: "http://proxy:3128"}]
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/berth/ca}]
`,
			kinds: "Deployment,HTTPRoute,HorizontalPodAutoscaler,Ingress,PodDisruptionBudget,Secret,Secret,Service,Service,ServiceAccount,ServiceMonitor",
			facts: map[string]string{
				"Deployment.spec.replicas":                                              "", // the autoscaler's
				"HorizontalPodAutoscaler.spec.minReplicas":                              "3",
				"Deployment.spec.template.spec.containers.0.image":                      "registry.example.com/berth@sha256:" + strings.Repeat("a", 64),
				"Deployment.spec.template.spec.containers.0.env.1.name":                 "HTTPS_PROXY",
				"Deployment.spec.template.spec.topologySpreadConstraints.0.topologyKey": "rack",
				"Deployment.spec.template.metadata.labels.a":                            "b",
				"ServiceMonitor.metadata.labels.release":                                "prometheus",
				"HTTPRoute.spec.rules.0.backendRefs.0.port":                             "443",
			},
		},
		"one server with blobs in S3": {
			values: "config: {storage: {s3: {bucket: images}}, policy: [{who: [authenticated], repos: [\"**\"], may: [pull, push]}]}\nstores: {s3AccessKey: key, s3SecretKey: s3-secret}\npersistence: {storageClass: fast, size: 5Gi}",
			kinds:  "Secret,Secret,Service,Service,ServiceAccount,StatefulSet",
			facts:  map[string]string{"StatefulSet.spec.volumeClaimTemplates.0.spec.storageClassName": "fast"},
		},
		"one server without a volume": {
			values: "persistence: {enabled: false}\nserviceAccount: {create: false}\nfullnameOverride: " + strings.Repeat("x", 60),
			kinds:  "Secret,Service,Service,StatefulSet",
			facts:  map[string]string{"StatefulSet.spec.volumeClaimTemplates": "", "StatefulSet.metadata.name": strings.Repeat("x", 52)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := chart(t, c.values).Run("template", "r", chartPath(t), kubernetes, "-f", "values.yaml")
			if out, _, err := berthtest.NewCommand(t, "kubecheck").Input(text).Try(); err != nil {
				t.Errorf("kubecheck: %v\n%s", err, out)
			}
			objects := manifests(t, text)
			if kinds := strings.Join(kindsOf(objects), ","); kinds != c.kinds {
				t.Errorf("made %s, want %s", kinds, c.kinds)
			}
			for path, want := range c.facts {
				if got := fact(t, objects, path); got != want {
					t.Errorf("%s is %q, want %q", path, got, want)
				}
			}
			checkChartConfig(t, objects)
			chart(t, c.values).Run("lint", "--strict", chartPath(t), "-f", "values.yaml")
		})
	}
}

// TestChartRefuses has the chart refuse what would not work, and say why.
func TestChartRefuses(t *testing.T) {
	t.Parallel()
	for values, want := range map[string]string{
		"replicas: 2":                  "mode single is one server",
		"autoscaling: {enabled: true}": "autoscaling wants mode replicas",
		"mode: replicas" + chartStores: "config.storage.s3.bucket",
		"mode: replicas\nconfig: {storage: {s3: {bucket: images}}}": "stores.postgresDSN",
		"mode: several":                    "mode",
		"config: {http: {addr: \":80\"}}":  "are the chart's",
		"config: {storage: {data: /data}}": "are the chart's",
		"config: {storage: {s3: {bucket: images, secret_key: secret-value}}}":   "secret_key: set it in stores",
		"config: {storage: {postgres: {dsn: secret-value}}}":                    "dsn: set it in stores",
		"config: {storage: {s3: {bucket: images}}}\nstores: {s3AccessKey: key}": "both stores.s3AccessKey",
		"stores: {s3AccessKey: key, s3SecretKey: secret-value}":                 "want config.storage.s3.bucket",
		"stores: {existingSecret: a, postgresDSN: secret-value}":                "excludes",
		"existingConfigSecret: a\nconfig: {log: {level: warn}}":                 "excludes config",
		"ingress: {enabled: true}":                                              "ingress.hosts",
		"httpRoute: {enabled: true}":                                            "httpRoute.parentRefs",
		"replica: 2":                                                            "replica",
		"persistence: {size: 10 bananas}":                                       "size",
		"resources: 3":                                                          "resources",
		"stores: {existing: {postgres: maybe}}":                                 "postgres",
	} {
		t.Run(values, func(t *testing.T) {
			t.Parallel()
			out, stderr, err := chart(t, values).Try("template", "r", chartPath(t), kubernetes, "-f", "values.yaml")
			if err == nil || !strings.Contains(stderr, want) {
				t.Errorf("%v: %s, want %q\n%s", err, stderr, want, out)
			}
			if strings.Contains(stderr, "secret-value") {
				t.Errorf("the refusal tells a secret: %s", stderr)
			}
		})
	}
}

// TestChartNotes reads what helm tells after an installation: it is true of the values.
func TestChartNotes(t *testing.T) {
	t.Parallel()
	// Only a cluster is shown the notes; here a manifest has them.
	dir := filepath.Join(t.TempDir(), "berth")
	if err := os.CopyFS(dir, os.DirFS(chartPath(t))); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "templates/told.yaml", []byte(`told: {{ include (print $.Template.BasePath "/NOTES.txt") . | quote }}`))
	for values, want := range map[string]string{
		"":        "one server.",
		chartMany: "3 servers on S3 and PostgreSQL.",
		"ingress: {enabled: true, hosts: [registry.example.com]}": "It is registry.example.com.",
		"persistence: {enabled: false}":                           "one server, whose data ends with its pod.",
	} {
		out := chart(t, values).Run("template", "r", dir, kubernetes, "-f", "values.yaml", "-s", "templates/told.yaml")
		notes := fmt.Sprint(manifests(t, out)[0]["told"])
		if !strings.Contains(notes, want) || !strings.Contains(notes, "Without config.policy") || strings.Contains(notes, "secret") {
			t.Errorf("the notes are %s, want %q", notes, want)
		}
	}
}

func chartPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(berthtest.ModuleRoot(t), "packaging", "helm", "berth")
}

// chart is helm in a directory with values.yaml.
func chart(t *testing.T, values string) *berthtest.Command {
	t.Helper()
	dir, home := t.TempDir(), t.TempDir()
	writeFile(t, dir, "values.yaml", []byte(values))
	return berthtest.NewCommand(t, "helm").Dir(dir).Env(
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
}
