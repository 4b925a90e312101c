package api

import (
	"net/http"
	"strings"
)

// route is a row of the table of routes.
type route struct {
	method string
	path   string // with names in braces, which may hold slashes
	since  version
	handle func(*exchange) error
}

const (
	get    = http.MethodGet
	head   = http.MethodHead
	post   = http.MethodPost
	put    = http.MethodPut
	remove = http.MethodDelete
)

// served is the table of routes that Berth serves. The first that matches serves
// the request, but those of unsupported come before them: of two that match, they
// are the longer.
func served() []route {
	return []route{
		{get, "/_ping", 0, (*exchange).ping},
		{head, "/_ping", 0, (*exchange).ping},
		{get, "/version", 0, (*exchange).version},
		{get, "/info", 0, (*exchange).info},
		{get, "/events", 0, (*exchange).events},
		{get, "/system/df", 25, (*exchange).diskUsage},
		{post, "/auth", 0, (*exchange).auth},

		{get, "/containers/json", 0, (*exchange).listContainers},
		{post, "/containers/create", 0, (*exchange).createContainer},
		{post, "/containers/prune", 25, (*exchange).pruneContainers},
		{get, "/containers/{name}/json", 0, (*exchange).inspectContainer},
		{post, "/containers/{name}/start", 0, (*exchange).startContainer},
		{post, "/containers/{name}/stop", 0, (*exchange).stopContainer},
		{post, "/containers/{name}/restart", 0, (*exchange).restartContainer},
		{post, "/containers/{name}/kill", 0, (*exchange).killContainer},
		{post, "/containers/{name}/pause", 0, (*exchange).pauseContainer},
		{post, "/containers/{name}/unpause", 0, (*exchange).unpauseContainer},
		{post, "/containers/{name}/wait", 0, (*exchange).waitContainer},
		{post, "/containers/{name}/rename", 0, (*exchange).renameContainer},
		{post, "/containers/{name}/update", 0, (*exchange).updateContainer},
		{remove, "/containers/{name}", 0, (*exchange).removeContainer},
		{get, "/containers/{name}/top", 0, (*exchange).topContainer},
		{get, "/containers/{name}/stats", 0, (*exchange).containerStats},
		{get, "/containers/{name}/logs", 0, (*exchange).containerLogs},
		{post, "/containers/{name}/attach", 0, (*exchange).attachContainer},
		{get, "/containers/{name}/attach/ws", 0, (*exchange).attachWebSocket},
		{post, "/containers/{name}/resize", 0, (*exchange).resizeContainer},
		{get, "/containers/{name}/changes", 0, (*exchange).containerChanges},
		{get, "/containers/{name}/export", 0, (*exchange).exportContainer},
		{head, "/containers/{name}/archive", 0, (*exchange).statArchive},
		{get, "/containers/{name}/archive", 0, (*exchange).readArchive},
		{put, "/containers/{name}/archive", 0, (*exchange).writeArchive},
		{post, "/commit", 0, (*exchange).commit},

		{post, "/containers/{name}/exec", 0, (*exchange).createExec},
		{post, "/exec/{id}/start", 0, (*exchange).startExec},
		{post, "/exec/{id}/resize", 0, (*exchange).resizeExec},
		{get, "/exec/{id}/json", 0, (*exchange).inspectExec},

		{get, "/images/json", 0, (*exchange).listImages},
		{get, "/images/search", 0, (*exchange).searchImages},
		{get, "/images/get", 0, (*exchange).saveImages},
		{post, "/images/create", 0, (*exchange).createImage},
		{post, "/images/load", 0, (*exchange).loadImages},
		{post, "/images/prune", 25, (*exchange).pruneImages},
		{get, "/images/{name}/json", 0, (*exchange).inspectImage},
		{get, "/images/{name}/history", 0, (*exchange).imageHistory},
		{get, "/images/{name}/attestations", 55, (*exchange).imageAttestations},
		{get, "/images/{name}/get", 0, (*exchange).saveImages},
		{post, "/images/{name}/tag", 0, (*exchange).tagImage},
		{post, "/images/{name}/push", 0, (*exchange).pushImage},
		{remove, "/images/{name}", 0, (*exchange).removeImage},
		{get, "/distribution/{name}/json", 30, (*exchange).inspectDistribution},

		{get, "/networks", 0, (*exchange).listNetworks},
		{get, "/networks/", 0, (*exchange).listNetworks},
		{post, "/networks/create", 0, (*exchange).createNetwork},
		{post, "/networks/prune", 25, (*exchange).pruneNetworks},
		{get, "/networks/{id}", 0, (*exchange).inspectNetwork},
		{remove, "/networks/{id}", 0, (*exchange).removeNetwork},
		{post, "/networks/{id}/connect", 0, (*exchange).connectNetwork},
		{post, "/networks/{id}/disconnect", 0, (*exchange).disconnectNetwork},

		{get, "/volumes", 0, (*exchange).listVolumes},
		{post, "/volumes/create", 0, (*exchange).createVolume},
		{post, "/volumes/prune", 25, (*exchange).pruneVolumes},
		{get, "/volumes/{name}", 0, (*exchange).inspectVolume},
		{put, "/volumes/{name}", 42, (*exchange).updateVolume},
		{remove, "/volumes/{name}", 0, (*exchange).removeVolume},

		{post, "/build", 0, (*exchange).build},
		{post, "/build/cancel", 39, (*exchange).cancelBuild},
		{post, "/build/prune", 31, (*exchange).pruneBuilds},
		{post, "/session", 39, (*exchange).buildSession},
		{post, "/grpc", 0, (*exchange).buildControl},

		// Nothing of these can be, so that there is none is the whole truth.
		{get, "/plugins", 25, (*exchange).listPlugins},
		{get, "/plugins/{name}/json", 25, (*exchange).inspectPlugin},
	}
}

// router finds the route of a request.
type router struct {
	routes map[string][]compiled // by the first component of the path
}

type compiled struct {
	route
	pattern pattern
}

func newRouter() *router {
	rt := &router{routes: map[string][]compiled{}}
	for _, r := range append(unsupported(), served()...) {
		key := firstComponent(r.path)
		rt.routes[key] = append(rt.routes[key], compiled{r, parsePattern(r.path)})
	}
	return rt
}

// find returns the route of a request and the names in its path, which carries
// no version. It is a pure function of the table.
func (rt *router) find(method, path string) (r *route, names []string) {
	candidates := rt.routes[firstComponent(path)]
	for i := range candidates {
		if c := &candidates[i]; c.method == method {
			if names, ok := c.pattern.match(path); ok {
				return &c.route, names
			}
		}
	}
	return nil, nil
}

func firstComponent(path string) string {
	path, _, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return path
}
