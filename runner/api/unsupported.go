package api

import (
	"github.com/berth-registry/berth/runner"
)

// unsupported are the routes of the Docker Engine API that Berth does not serve:
// a client hears so, rather than that there is no such page.
func unsupported() []route {
	no := func(method, path, what string) route {
		return route{method: method, path: path, handle: func(*exchange) error {
			return runner.Errorf(runner.ErrNotImplemented, "%s is not supported by Berth", what)
		}}
	}
	manager := func(method, path string) route {
		return route{method: method, path: path, handle: func(*exchange) error {
			return runner.Errorf(runner.ErrUnavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
		}}
	}
	return []route{
		no(get, "/containers/{name}/checkpoints", "checkpointing"),
		no(post, "/containers/{name}/checkpoints", "checkpointing"),
		no(remove, "/containers/{name}/checkpoints/{checkpoint}", "checkpointing"),

		no(get, "/plugins/privileges", "installing plugins"),
		no(post, "/plugins/pull", "installing plugins"),
		no(post, "/plugins/create", "creating plugins"),
		no(post, "/plugins/{name}/enable", "enabling plugins"),
		no(post, "/plugins/{name}/disable", "disabling plugins"),
		no(post, "/plugins/{name}/upgrade", "upgrading plugins"),
		no(post, "/plugins/{name}/push", "pushing plugins"),
		no(post, "/plugins/{name}/set", "changing plugins"),
		no(remove, "/plugins/{name}", "removing plugins"),

		no(post, "/swarm/init", "swarm mode"),
		no(post, "/swarm/join", "swarm mode"),
		manager(get, "/swarm"),
		{post, "/swarm/leave", 0, func(*exchange) error {
			return runner.Errorf(runner.ErrUnavailable, "This node is not part of a swarm")
		}},
		manager(post, "/swarm/update"),
		manager(get, "/swarm/unlockkey"),
		manager(post, "/swarm/unlock"),
		manager(get, "/nodes"),
		manager(get, "/nodes/{id}"),
		manager(remove, "/nodes/{id}"),
		manager(post, "/nodes/{id}/update"),
		manager(get, "/services"),
		manager(post, "/services/create"),
		manager(get, "/services/{id}/logs"),
		manager(get, "/services/{id}"),
		manager(remove, "/services/{id}"),
		manager(post, "/services/{id}/update"),
		manager(get, "/tasks"),
		manager(get, "/tasks/{id}/logs"),
		manager(get, "/tasks/{id}"),
		manager(get, "/secrets"),
		manager(post, "/secrets/create"),
		manager(get, "/secrets/{id}"),
		manager(remove, "/secrets/{id}"),
		manager(post, "/secrets/{id}/update"),
		manager(get, "/configs"),
		manager(post, "/configs/create"),
		manager(get, "/configs/{id}"),
		manager(remove, "/configs/{id}"),
		manager(post, "/configs/{id}/update"),
	}
}
