package stack

import (
	"slices"
	"strings"
)

// fields has all keys of a Compose file, as compose-go's types have them, and what
// becomes of each: "" says that it is translated, and anything else why it is refused.
// "*" stands for a name, "[]" for the elements of a list. What is not here is refused.
// A key whose value is taken as it is has nothing below it here.
func fields() map[string]string {
	all := map[string]string{}
	add := func(prefix, keys string) {
		for k := range strings.FieldsSeq(keys) {
			all[prefix+k] = ""
		}
	}
	add("", "name services networks volumes secrets configs")
	all["models"] = "models are run by other means"
	all["jobs"] = "write a service with x-berth: {job: true}"
	add("services.*.", `annotations blkio_config cap_add cap_drop cgroup cgroup_parent command configs
		cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset depends_on deploy
		device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file environment
		expose external_links extra_hosts gpus group_add healthcheck hostname image init ipc
		label_file labels links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit
		name network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports
		privileged profiles pull_policy read_only restart runtime scale secrets security_opt shm_size
		stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits umask user
		userns_mode uts volume_driver volumes volumes_from working_dir`)
	add("services.*.", "attach build develop extends") // build is told, the others say nothing here
	refuseServiceKeys(all)
	addServiceParts(add)
	addDeploy(add, all)
	addTopLevel(add, all)
	return all
}

// refuseServiceKeys are the keys of services that Berth does not do.
func refuseServiceKeys(all map[string]string) {
	const hooks = "write what it does into the image's entrypoint, or a service of its own with x-berth: {job: true} that this one depends_on with condition: service_completed_successfully"
	for key, why := range map[string]string{
		"container_name":     "containers of a deployment are named STACK-SERVICE-rREVISION-NUMBER; give the service another name by networks: {default: {aliases: [NAME]}}",
		"cpu_count":          "it is for Windows; say cpus",
		"cpu_percent":        "it is for Windows; say cpus",
		"credential_spec":    "it is for Windows",
		"isolation":          "it is for Windows",
		"dockerfile":         "build the image, push it, and name it by image",
		"log_driver":         "say logging: {driver: ...}",
		"log_opt":            "say logging: {options: ...}",
		"models":             "models are run by other means",
		"net":                "say network_mode",
		"post_start":         hooks,
		"pre_start":          hooks,
		"pre_stop":           "have the program do it when it gets its stop_signal",
		"provider":           "a service is a container of an image",
		"pull_refresh_after": "say pull_policy: always, and deploy",
		"use_api_socket":     "bind the socket: volumes: [/run/berth/runner.sock:/var/run/docker.sock]",
	} {
		all["services.*."+key] = why
	}
}

// addServiceParts are the keys below those of services.
func addServiceParts(add func(prefix, keys string)) {
	add("services.*.blkio_config.", "weight weight_device device_read_bps device_read_iops device_write_bps device_write_iops")
	add("services.*.blkio_config.weight_device.[].", "path weight")
	for _, k := range []string{"device_read_bps", "device_read_iops", "device_write_bps", "device_write_iops"} {
		add("services.*.blkio_config."+k+".[].", "path rate")
	}
	add("services.*.configs.[].", "source target uid gid mode")
	add("services.*.secrets.[].", "source target uid gid mode")
	add("services.*.depends_on.*.", "condition restart required")
	add("services.*.devices.[].", "source target permissions")
	add("services.*.env_file.[].", "path required format")
	add("services.*.gpus.[].", "capabilities driver count device_ids options")
	add("services.*.healthcheck.", "test timeout interval retries start_period start_interval disable")
	add("services.*.logging.", "driver options")
	add("services.*.networks.*.", `aliases driver_opts gw_priority interface_name ipv4_address ipv6_address
		link_local_ips mac_address priority use_service_name_alias`)
	add("services.*.ports.[].", "name mode host_ip target published protocol app_protocol")
	add("services.*.ulimits.*.", "single soft hard")
	add("services.*.volumes.[].", "type source target read_only consistency bind volume tmpfs image")
	add("services.*.volumes.[].bind.", "selinux propagation create_host_path recursive")
	add("services.*.volumes.[].volume.", "labels nocopy subpath")
	add("services.*.volumes.[].tmpfs.", "size mode")
	add("services.*.volumes.[].image.", "subpath")
}

// addDeploy are the keys of deploy.
func addDeploy(add func(prefix, keys string), all map[string]string) {
	add("services.*.deploy.", "mode replicas update_config resources restart_policy endpoint_mode")
	add("services.*.deploy.update_config.", "parallelism delay failure_action monitor order")
	add("services.*.deploy.resources.", "limits reservations")
	add("services.*.deploy.resources.limits.", "cpus memory pids")
	add("services.*.deploy.resources.reservations.", "memory devices")
	add("services.*.deploy.resources.reservations.devices.[].", "capabilities driver count device_ids options")
	add("services.*.deploy.restart_policy.", "condition max_attempts")
	for key, why := range map[string]string{
		"labels":                                   "there is nothing beside the containers to put them on; say labels of the service",
		"rollback_config":                          "a version that fails, or is rolled back, goes as update_config says",
		"placement":                                "a stack is deployed to one host; which hosts of a fleet take it is x-berth: {rollout: {nodes: ...}}",
		"update_config.max_failure_ratio":          "no replica may fail; say failure_action for what is done then",
		"resources.limits.devices":                 "say it under reservations",
		"resources.limits.generic_resources":       "there is no scheduler that counts them",
		"resources.reservations.cpus":              "there is no scheduler that reserves them; say limits, or cpu_shares",
		"resources.reservations.pids":              "say it under limits",
		"resources.reservations.generic_resources": "there is no scheduler that counts them",
		"restart_policy.delay":                     "the delay grows from 100 ms with each restart",
		"restart_policy.window":                    "a container that has run for 10 s counts as restarted",
	} {
		all["services.*.deploy."+key] = why
	}
}

// addTopLevel are the keys of networks, volumes, configs and secrets.
func addTopLevel(add func(prefix, keys string), all map[string]string) {
	add("networks.*.", "name driver driver_opts ipam external internal attachable labels enable_ipv4 enable_ipv6")
	add("networks.*.ipam.", "driver config options")
	add("networks.*.ipam.config.[].", "subnet gateway ip_range aux_addresses")
	add("volumes.*.", "name driver driver_opts external labels")
	for _, kind := range []string{"configs", "secrets"} {
		add(kind+".*.", "name file environment content external")
		for _, key := range []string{"driver", "driver_opts", "template_driver"} {
			all[kind+".*."+key] = "say file, or environment"
		}
		all[kind+".*.labels"] = "there is nothing to put them on"
	}
}

// opaque are the keys below which everything is the user's own, or not looked at.
func opaque(pattern string) bool {
	switch pattern {
	case "services.*.build", "services.*.develop", "services.*.extends":
		return true
	}
	return false
}

// checkFields refuses each key of the merged Compose file that is not supported, of
// what is deployed: services that no profile enables are not.
func checkFields(ps *problems, profiles []string) {
	known := fields()
	parents := map[string]bool{}
	for pattern := range known {
		for i := strings.LastIndexByte(pattern, '.'); i > 0; i = strings.LastIndexByte(pattern, '.') {
			pattern = pattern[:i]
			parents[pattern] = true
		}
	}
	w := &walk{problems: ps, known: known, parents: parents, skip: func(p keys, v any) bool {
		return len(p) == 2 && p[0] == "services" && !enabled(v, profiles)
	}}
	w.mapping(nil, "", ps.src.model)
}

// enabled says whether the profiles of a service, if it has any, are asked for.
func enabled(service any, asked []string) bool {
	m, _ := service.(map[string]any)
	own, _ := m["profiles"].([]any)
	if len(own) == 0 || slices.Contains(asked, "*") {
		return true
	}
	return slices.ContainsFunc(own, func(p any) bool {
		s, _ := p.(string)
		return slices.Contains(asked, s)
	})
}

type walk struct {
	*problems
	known   map[string]string
	parents map[string]bool // patterns that have others below them
	skip    func(p keys, v any) bool
}

// mapping checks the keys of a mapping. Extensions are the user's own.
func (w *walk) mapping(p keys, pattern string, m map[string]any) {
	names := w.parents[join(pattern, "*")]
	for key, v := range byKey(m) {
		at := p.at(key)
		if (strings.HasPrefix(key, "x-") && !names) || w.skip(at, v) {
			if key == extension && pattern != "" && pattern != "services.*" {
				w.addf(at, "x-berth stands at the top of the file, or in a service")
			}
			continue
		}
		if names {
			w.value(at, join(pattern, "*"), v)
			continue
		}
		switch why, ok := w.known[join(pattern, key)]; {
		case !ok:
			w.unsupportedf(at, "this version does not know the key")
		case why != "":
			w.unsupportedf(at, "%s", why)
		default:
			w.value(at, join(pattern, key), v)
		}
	}
}

// value goes further down where the pattern has more.
func (w *walk) value(p keys, pattern string, v any) {
	if opaque(pattern) {
		return
	}
	if !w.parents[pattern] && !w.parents[pattern+".[]"] && hasNUL(v) {
		w.addf(p, "a NUL byte, which nothing of a container can have in it")
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if w.parents[pattern] {
			w.mapping(p, pattern, v)
		}
	case []any:
		for i, e := range v {
			if m, ok := e.(map[string]any); ok && w.parents[pattern+".[]"] {
				w.mapping(p.index(i), pattern+".[]", m)
			}
		}
	}
}

// hasNUL says whether a value is a text with a NUL byte, or a list of such, or a mapping.
func hasNUL(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.IndexByte(v, 0) >= 0
	case []any:
		return slices.ContainsFunc(v, hasNUL)
	case map[string]any:
		for key, e := range v {
			if hasNUL(key) || hasNUL(e) {
				return true
			}
		}
	}
	return false
}

func join(pattern, key string) string {
	if pattern == "" {
		return key
	}
	return pattern + "." + key
}
