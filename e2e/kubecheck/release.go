package main

import (
	"fmt"
	"slices"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/api"
	security "k8s.io/pod-security-admission/policy"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// release is what belongs together.
type release struct {
	objects  []runtime.Object
	names    map[string]bool // KIND/NAME
	pods     []pod
	problems []string
}

// pod is what a workload makes.
type pod struct {
	of       string
	template core.PodTemplateSpec
	claims   []core.PersistentVolumeClaim
}

func (r *release) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// add takes an object in, and says what is wrong with its name.
func (r *release) add(object runtime.Object) {
	r.objects = append(r.objects, object)
	kind := object.GetObjectKind().GroupVersionKind().Kind
	named, ok := object.(meta.Object)
	if !ok {
		r.problem("a %s has no name", kind)
		return
	}
	key := kind + "/" + named.GetName()
	if r.names[key] {
		r.problem("%s is there twice", key)
	}
	r.names[key] = true
	if why := validation.IsDNS1035Label(named.GetName()); why != nil && kind == "Service" {
		r.problem("%s: %v", key, why)
	}
	for k, v := range named.GetLabels() {
		for _, why := range slices.Concat(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)) {
			r.problem("%s: label %s=%s: %s", key, k, v, why)
		}
	}
}

// check looks at how the objects go together.
func (r *release) check() {
	for _, object := range r.objects {
		switch o := object.(type) {
		case *apps.Deployment:
			r.workload("Deployment/"+o.Name, o.Spec.Selector, pod{of: "Deployment/" + o.Name, template: o.Spec.Template})
		case *apps.StatefulSet:
			r.workload("StatefulSet/"+o.Name, o.Spec.Selector, pod{"StatefulSet/" + o.Name, o.Spec.Template, o.Spec.VolumeClaimTemplates})
			r.leads("StatefulSet/"+o.Name, "Service", o.Spec.ServiceName)
		}
	}
	for _, object := range r.objects {
		switch o := object.(type) {
		case *core.Service:
			r.service(o)
		case *networking.Ingress:
			for _, rule := range o.Spec.Rules {
				for _, path := range rule.HTTP.Paths {
					r.leads("Ingress/"+o.Name, "Service", path.Backend.Service.Name)
				}
			}
		case *gateway.HTTPRoute:
			for _, rule := range o.Spec.Rules {
				for _, backend := range rule.BackendRefs {
					r.leads("HTTPRoute/"+o.Name, "Service", string(backend.Name))
				}
			}
		case *autoscaling.HorizontalPodAutoscaler:
			r.leads("HorizontalPodAutoscaler/"+o.Name, o.Spec.ScaleTargetRef.Kind, o.Spec.ScaleTargetRef.Name)
		case *policy.PodDisruptionBudget:
			r.selects("PodDisruptionBudget/"+o.Name, o.Spec.Selector.MatchLabels)
		}
	}
}

// leads says that a name is that of an object of the release.
func (r *release) leads(from, kind, name string) {
	if !r.names[kind+"/"+name] {
		r.problem("%s names %s/%s, which is not there", from, kind, name)
	}
}

func (r *release) workload(of string, selector *meta.LabelSelector, p pod) {
	r.pods = append(r.pods, p)
	s, err := meta.LabelSelectorAsSelector(selector)
	if err != nil || s.Empty() || !s.Matches(labels.Set(p.template.Labels)) {
		r.problem("%s does not select its own pods (%v)", of, err)
	}
	r.security(p)
	volumes := map[string]bool{}
	for _, v := range p.template.Spec.Volumes {
		if volumes[v.Name] {
			r.problem("%s: volume %s is there twice", of, v.Name)
		}
		volumes[v.Name] = true
	}
	for _, c := range p.claims {
		volumes[c.Name] = true
	}
	for _, c := range p.template.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				r.problem("%s: no volume %s for %s", of, m.Name, m.MountPath)
			}
		}
		for _, probe := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil || !hasPort(p, probe.HTTPGet.Port) {
				r.problem("%s: a probe is missing, or leads nowhere", of)
			}
		}
	}
}

// security asks what a namespace that enforces the standard would.
func (r *release) security(p pod) {
	evaluator, err := security.NewEvaluator(security.DefaultChecks(), nil)
	if err != nil {
		r.problem("%v", err)
		return
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(level, &p.template.ObjectMeta, &p.template.Spec) {
		if !result.Allowed {
			r.problem("%s: %s: %s", p.of, result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
}

func (r *release) service(s *core.Service) {
	for _, p := range r.selects("Service/"+s.Name, s.Spec.Selector) {
		for _, port := range s.Spec.Ports {
			if !hasPort(p, port.TargetPort) {
				r.problem("Service/%s: %s has no port %s", s.Name, p.of, port.TargetPort.String())
			}
		}
	}
}

// selects returns the pods that labels select, and says so if there are none.
func (r *release) selects(from string, selector map[string]string) (pods []pod) {
	for _, p := range r.pods {
		if labels.SelectorFromSet(selector).Matches(labels.Set(p.template.Labels)) {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		r.problem("%s selects no pods", from)
	}
	return pods
}

func hasPort(p pod, port intstr.IntOrString) bool {
	for _, c := range p.template.Spec.Containers {
		for _, have := range c.Ports {
			if have.Name == port.StrVal || have.ContainerPort == port.IntVal {
				return true
			}
		}
	}
	return false
}
