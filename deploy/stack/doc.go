// Package stack makes a deploy.Stack of a Compose file. Load reads the files of a
// user, FromYAML what was published; Loaded.Pin returns what is to be published.
//
// compose-go parses: include, extends, several files, profiles, .env and variables are
// what they are to docker compose, and each service becomes the request that docker
// compose would make of the engine.
//
// # What is not supported is an error
//
// Each key that Compose knows is translated or refused with its file and line, and all
// that is wrong is told at once: see Error. What two versions of a service cannot have
// beside each other, as the host's network or a fixed address, is refused with
// strategies that start the new version before the old has gone.
//
// These say nothing to a deployment on Linux, and are not looked at: attach, develop,
// consistency of a volume, name and app_protocol of a port, x-* but x-berth, and build
// where there is an image too, which is told as a warning. Networks, volumes, configs
// and secrets that no service uses are left out, as docker compose leaves them.
//
// # What differs from docker compose
//
//   - A published port, and the names of a service, belong to the service. Mode host
//     and mode ingress of a port are the same, a range of ports for one port of the
//     container is refused, and links are further names of the other service on the
//     networks that both are on.
//   - Configs and secrets are read when the file is loaded and travel with the stack,
//     at most 1 MiB each. Their uid, gid and mode are honoured; the default is 0:0 and
//     0444.
//   - update_config has a parallelism of 1, a monitor of 5s and a failure_action of
//     rollback where it does not say otherwise.
//   - deploy.mode: replicated-job makes a job, as x-berth does, and so does another
//     service that waits for this one with service_completed_successfully.
//
// # What Berth adds
//
// Extension keys, which are read strictly. At the top of the file:
//
//	x-berth:
//	  keep: 2                     # versions before, whose containers are kept
//	  rollout:                    # over the nodes that follow the stack
//	    parallel: 20%             # or a number; 1
//	    max_failures: 0           # nodes that may fail
//	    on_failure: rollback      # or pause
//	    nodes: {zone: a}          # labels that nodes have
//	    window: {days: [sat, sun], from: "02:00", to: "04:00", zone: Europe/Berlin}
//	    deadline: 10m             # for one node
//
// and of a service:
//
//	x-berth:
//	  strategy: blue-green        # canary, rolling
//	  steps: [{weight: 10, pause: 30s}, {weight: 50, pause: 5m}] # of a canary
//	  drain: 30s                  # that connections of the old version get
//	  job: true                   # it is to end, and is run once for each version
//
// A service with published ports or routes goes blue-green, unless its update_config
// has order: stop-first; all others go rolling.
//
// Labels berth.edge.KEY of a service make a route of the HTTP edge, and labels
// berth.edge.NAME.KEY several:
//
//	host        shop.example.com, *.shop.example.com; without: every name
//	path        /api, /v2: prefixes; without: all
//	port        of the container; need not be said if the service has one
//	tls         acme (with a host), internal, off (without)
//	sticky      the name of a cookie that keeps a client at its replica
//	retries     further replicas that are tried
//	try-for     5s: for which they are tried
//	strip-path  true: the service does not see the prefix
//	max-body    10MB
//	compress    true
//
// # What it does not do
//
// What only the host can tell is not looked at here: whether it has a runtime, a driver,
// a device or a network. Compose files have bounds (services, ports of a range, values
// with all aliases written out, depth), and so have files of variables: 1 MiB.
//
// It asks no registry and no engine: images have digests only where the file has them,
// or where Pin is given them. Compose files of other hosts (git, OCI) are not read.
package stack
