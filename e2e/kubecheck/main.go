// Command kubecheck says what is wrong with manifests for Kubernetes, which it reads
// from its standard input: fields that their kinds do not have, pods that the security
// standard "restricted" refuses, and names within a release that lead nowhere. It needs
// no cluster, and does not know all that a cluster would refuse.
//
// It prints a line for each problem, and exits with 1 if there are any.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

func main() {
	problems, err := check(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubecheck:", err)
		os.Exit(2)
	}
	for _, p := range problems {
		fmt.Println(p)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

// check returns what is wrong with the manifests of a release.
func check(r io.Reader) (problems []string, err error) {
	decoder, err := strictDecoder()
	if err != nil {
		return nil, err
	}
	rel := &release{names: map[string]bool{}}
	documents := yaml.NewYAMLReader(bufio.NewReader(r))
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if empty(text) {
			continue
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%v, of:\n%s", err, text))
			continue
		}
		rel.add(object)
	}
	if len(rel.objects) == 0 && len(problems) == 0 {
		return nil, errors.New("found no manifests")
	}
	rel.check()
	return append(problems, rel.problems...), nil
}

// strictDecoder decodes the kinds that a chart may be made of, and refuses all else.
func strictDecoder() (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	var errs []error
	for _, add := range []func(*runtime.Scheme) error{
		apps.AddToScheme, autoscaling.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme,
		gateway.Install, monitoring.AddToScheme,
	} {
		errs = append(errs, add(scheme))
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer(), errors.Join(errs...)
}

// empty says whether a document has nothing but comments.
func empty(text []byte) bool {
	var v any
	return yaml.Unmarshal(text, &v) == nil && v == nil
}
