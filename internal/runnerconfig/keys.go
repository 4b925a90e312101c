package runnerconfig

import (
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

const exampleHead = `The configuration of berth-runner serve: every key with its default. What is left
out has its default, and anything that is not here is an error.

Each key but runtimes, registries, trust, follow, node.labels and containers.log_opts can
also be set in the environment: socket.path is BERTH_RUNNER_SOCKET_PATH. A flag beats the
environment, the environment beats this file. Durations are written like 30s, 5m or 24h. On
SIGHUP the runner reads this file again and takes over the keys marked [reload]; the
others need a restart, through which containers go on running.
`

// schema is all that berth-runner serve can be told.
var schema = settings.Schema[Config]{
	Prefix:    "BERTH_RUNNER",
	Head:      exampleHead,
	Default:   Default,
	Keys:      keys,
	Conflicts: conflicts,
}

var (
	runtimeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	program     = regexp.MustCompile(`^(/[^\x00]+|[A-Za-z0-9][A-Za-z0-9_.-]*)$`)
	logOpt      = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	absolute    = regexp.MustCompile(`^/[^\x00]*$`)
	groupName   = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_-]*|[0-9]+)?$`)
	remapName   = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?)?$`)
	deviceName  = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_.-]{0,14})?$`) // IFNAMSIZ
	hostName    = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$`)
	hostOrNone  = regexp.MustCompile(`^$|` + hostName.String())
	webURL      = regexp.MustCompile(`^https?://[^\s/?#]+(/[^\s?#]*)?$`)
	urlOrNone   = regexp.MustCompile(`^$|` + webURL.String())
	nodeName    = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,252})?$`)
	// socketPath is what fits into the address of a socket.
	socketPath = regexp.MustCompile(`^[^\x00]{1,107}$`)
)

// minReport and maxReport bound the interval of reports: registries keep one for three
// times as long, which is from a second to a week.
const (
	minReport = time.Second
	maxReport = 56 * time.Hour
)

const (
	wantFile    = "the path of a PEM file"
	wantProgram = "the path of a program"
	wantURL     = "a URL such as https://mirror.example.com"
)

// keys lists every key there is. Keys of a section stand together.
var keys = slices.Concat(runnerKeys, edgeKeys)

// runnerKeys are about the runner itself.
var runnerKeys = []settings.Key[Config]{
	{
		Path:  "data",
		Doc:   "The directory of images, containers and volumes. Two runners on a host need two.",
		Value: func(c *Config) *settings.Value { return settings.Directory(&c.Data) },
	}, {
		Path:  "run",
		Doc:   "The directory of what runs; it should not outlive a reboot.",
		Value: func(c *Config) *settings.Value { return settings.Directory(&c.Run) },
	}, {
		Path: "runtime",
		Doc:  "The OCI runtime of containers: a name to look for on the PATH, or a path.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Runtime, "the name or the path of an OCI runtime", program)
		},
	}, {
		Path:  "runtimes",
		Doc:   "Further OCI runtimes, for docker run --runtime: the path of each by its\nname, or its path and arguments. crun, runc and youki on the PATH need no entry.",
		Named: runtimes,
	}, {
		Path:  "conmon",
		Doc:   "The monitor of containers; \"\" looks for conmon on the PATH.",
		Value: func(c *Config) *settings.Value { return settings.PathOrNone(&c.Conmon, wantProgram) },
	}, {
		Path:  "init",
		Doc:   "The first process for docker run --init; \"\" looks for docker-init or tini on the\nPATH.",
		Value: func(c *Config) *settings.Value { return settings.PathOrNone(&c.Init, wantProgram) },
	}, {
		Path: "userns_remap",
		Doc: "Whose subordinate users and groups in /etc/subuid and /etc/subgid those of containers\n" +
			"are, USER[:GROUP]; default is the user berth; \"\" leaves containers the host's users.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.UsernsRemap, `USER[:GROUP], default, or ""`, remapName)
		},
	}, {
		Path: "cdi_spec_dirs",
		Doc:  "The directories of what describes CDI devices, for docker run --device and --gpus; the\nlater ones win. [] turns it off.",
		Value: func(c *Config) *settings.Value {
			return settings.List(&c.CDISpecDirs, "a list of absolute paths", absolute.MatchString)
		},
	}, {
		Path: "socket.path",
		Doc:  "The unix socket that the Docker Engine API is served on.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Socket.Path, "a path of at most 107 bytes", socketPath)
		},
	}, {
		Path: "socket.group",
		Doc:  "The group whose members may connect to it, and so are as good as root; \"\" is none.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Socket.Group, `the name of a group, or ""`, groupName)
		},
	}, {
		Path:  "tcp.addr",
		Doc:   "Where the API is served over TCP too, host:port; \"\" turns it off. Only clients with\na certificate are served, so all of tcp.tls is needed with it.",
		Value: func(c *Config) *settings.Value { return settings.AddressOrNone(&c.TCP.Addr) },
	}, {
		Path:  "tcp.tls.cert",
		Doc:   "The certificate that the runner shows, with those between it and its authority.",
		Value: func(c *Config) *settings.Value { return settings.PathOrNone(&c.TCP.TLS.Cert, wantFile) },
	}, {
		Path:  "tcp.tls.key",
		Doc:   "The key of the certificate.",
		Value: func(c *Config) *settings.Value { return settings.PathOrNone(&c.TCP.TLS.Key, wantFile) },
	}, {
		Path:  "tcp.tls.client_ca",
		Doc:   "The authorities of the clients' certificates.",
		Value: func(c *Config) *settings.Value { return settings.PathOrNone(&c.TCP.TLS.ClientCA, wantFile) },
	}, {
		Path:  "metrics.addr",
		Doc:   "Where metrics, health and profiles are served, such as localhost:5002; \"\" turns it\noff.",
		Value: func(c *Config) *settings.Value { return settings.AddressOrNone(&c.Metrics.Addr) },
	}, {
		Path:   "log.level",
		Doc:    "What is logged: debug, info, warn or error and all that is worse. At debug each\nrequest is.",
		Reload: true,
		Value:  func(c *Config) *settings.Value { return settings.Level(&c.Log.Level) },
	}, {
		Path:  "log.format",
		Doc:   "text, json, or auto: text on a terminal, JSON otherwise.",
		Value: func(c *Config) *settings.Value { return settings.Format(&c.Log.Format) },
	}, {
		Path: "registry.default",
		Doc:  "Where an image is whose name says no registry or docker.io, host[:port]; \"\" is Docker Hub.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Registry.Default, `host[:port], or ""`, hostOrNone)
		},
	}, {
		Path:  "registry.certs_dir",
		Doc:   "The directory of certificates, with a directory HOST[:PORT] for each registry.",
		Value: func(c *Config) *settings.Value { return settings.Directory(&c.Registry.CertsDir) },
	}, {
		Path:  "registries",
		Doc:   "How to speak to single registries, by the host[:port] in the names of images.\nDocker Hub's is docker.io. Private and loopback addresses are tried by plain HTTP\nwithout being told.",
		Named: registries,
	}, {
		Path: "report.name",
		Doc:  "The name of this node in reports, which no other has; \"\" is the host's name, and\nafter it what tells this data directory from the default one if it is another.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Report.Name, `letters, digits, ".", "_" and "-", or ""`, nodeName)
		},
	}, {
		Path: "report.interval",
		Doc:  "How often what runs is reported to the registries that are to know, besides when it\nchanges. They keep it for three times as long: the runner may be away for that time.",
		Value: func(c *Config) *settings.Value {
			return settings.DurationBetween(&c.Report.Interval, minReport, maxReport)
		},
	}, {
		Path:  "stacks.history",
		Doc:   "How many revisions of a stack are remembered, for berth-runner history and rollback.",
		Value: func(c *Config) *settings.Value { return settings.Count(&c.Stacks.History, 1) },
	}, {
		Path:  "follow",
		Doc:   followDoc,
		Items: follow,
	}, {
		Path:  "node.labels",
		Doc:   "What this node is, for rollouts that choose nodes by it.",
		Named: labels,
	}, {
		Path: "node.interval",
		Doc:  "How often a registry is told how a stack that is followed is doing, besides when that\nchanges. It counts on a node for three times as long.",
		Value: func(c *Config) *settings.Value {
			return settings.DurationBetween(&c.Node.Interval, minInterval, maxInterval)
		},
	}, {
		Path: "node.poll",
		Doc:  "How often a registry is asked what a tag names that does not tell by itself: any but\nBerth.",
		Value: func(c *Config) *settings.Value {
			return settings.DurationBetween(&c.Node.Poll, minInterval, maxInterval)
		},
	}, {
		Path:   "trust",
		Doc:    trustDoc,
		Reload: true,
		Items:  trust,
	}, {
		Path: "containers.log_driver",
		Doc:  "Where logs of containers go, unless --log-driver says otherwise.",
		Value: func(c *Config) *settings.Value {
			var drivers []settings.Option[string]
			for _, name := range []string{"json-file", "local", "journald", "syslog", "fluentd", "none"} {
				drivers = append(drivers, settings.Option[string]{Name: name, Value: name})
			}
			return settings.Choice(&c.Containers.LogDriver, drivers)
		},
	}, {
		Path:  "containers.log_opts",
		Doc:   "The options of that driver, where --log-opt does not say otherwise.",
		Named: logOpts,
	}, {
		Path:  "containers.log_max_unsent",
		Doc:   "How much of a container's log is kept for its server while that takes nothing; then\nthe oldest goes.",
		Value: func(c *Config) *settings.Value { return settings.Size(&c.Containers.LogMaxUnsent) },
	}, {
		Path:  "containers.log_max_size",
		Doc:   "How large a file of a container's log gets, unless --log-opt max-size says otherwise.",
		Value: func(c *Config) *settings.Value { return settings.Size(&c.Containers.LogMaxSize) },
	}, {
		Path:  "containers.log_max_file",
		Doc:   "How many such files a container's log has, unless --log-opt max-file says otherwise.",
		Value: func(c *Config) *settings.Value { return settings.Count(&c.Containers.LogMaxFile, 1) },
	}, {
		Path:  "containers.stop_timeout",
		Doc:   "How long a container may take to stop until it is killed, unless it says otherwise.",
		Value: func(c *Config) *settings.Value { return settings.DurationOrZero(&c.Containers.StopTimeout) },
	}, {
		Path:  "build.cache_max_size",
		Doc:   "How much the cache of builds may take; what was not used for the longest time goes\nfirst. 0 is a tenth of the disk.",
		Value: func(c *Config) *settings.Value { return settings.SizeOrZero(&c.Build.CacheMaxSize) },
	}, {
		Path: "network.bridge",
		Doc:  "The name of the default network's device; \"\" names it after the data directory.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Network.Bridge, `a device's name of at most 15 letters, or ""`, deviceName)
		},
	}, {
		Path: "network.subnet",
		Doc:  "The IPv4 addresses of the default network; \"\" takes a range that is free on the host.",
		Value: func(c *Config) *settings.Value {
			return settings.Subnet(&c.Network.Subnet, "a range such as 172.30.0.0/16", func(p netip.Prefix) bool {
				return p.Addr().Is4() && p.Bits() <= 29
			})
		},
	}, {
		Path: "network.subnet6",
		Doc:  "The IPv6 addresses of the default network; \"\" takes a random private range.",
		Value: func(c *Config) *settings.Value {
			return settings.Subnet(&c.Network.Subnet6, "a range such as fd00:1:2:3::/64", func(p netip.Prefix) bool {
				return p.Addr().Is6() && !p.Addr().Is4In6() && p.Bits() <= 125
			})
		},
	},
}
