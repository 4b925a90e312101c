package spec

import (
	"io"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// initPath is where docker-init is in a container.
const initPath = "/sbin/docker-init"

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process is the first process of a container.
func process(in Input, security securityOptions) (*specs.Process, error) {
	c, hc := in.Container, in.Container.HostConfig
	p, err := commonProcess(in, security, c.Config.User, c.Config.Tty)
	if err != nil {
		return nil, err
	}
	p.Args = append([]string{c.Path}, c.Args...)
	if withInit(hc) {
		if in.Files.Init == "" {
			return nil, runner.Errorf(runner.ErrPrecondition, "no docker-init is installed on this host, which --init needs")
		}
		p.Args = append([]string{initPath, "--"}, p.Args...)
	}
	p.Env = environment(c.Config, c.Config.Tty)
	if size := hc.ConsoleSize; c.Config.Tty && (size[0] != 0 || size[1] != 0) {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	score := hc.OomScoreAdj
	p.OOMScoreAdj = &score
	bounding, err := boundingCaps(in.Host, hc)
	if err != nil {
		return nil, err
	}
	p.Capabilities = userCaps(bounding, p.User.UID)
	return p, nil
}

// withInit says whether --init means something: with processes of its own.
func withInit(hc *container.HostConfig) bool {
	return hc.Init != nil && *hc.Init && hc.PidMode.IsPrivate()
}

// Exec returns a further process of a running container.
func Exec(in Input, req container.ExecCreateRequest) (*specs.Process, error) {
	c, hc := in.Container, in.Container.HostConfig
	if len(req.Cmd) == 0 {
		return nil, runner.Errorf(runner.ErrInvalid, "no exec command specified")
	}
	security, err := parseSecurity(hc.SecurityOpt)
	if err != nil {
		return nil, err
	}
	name := req.User
	if name == "" {
		name = c.Config.User
	}
	p, err := commonProcess(in, security, name, req.Tty)
	if err != nil {
		return nil, err
	}
	p.Args = req.Cmd
	p.Env = replaceEnv(environment(c.Config, req.Tty), req.Env)
	if req.WorkingDir != "" {
		p.Cwd = req.WorkingDir
	}
	if size := req.ConsoleSize; req.Tty && size != nil {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	bounding, err := boundingCaps(in.Host, hc)
	if err != nil {
		return nil, err
	}
	if req.Privileged {
		bounding = in.Host.Caps
	}
	p.Capabilities = userCaps(bounding, p.User.UID)
	return p, nil
}

// commonProcess is what all processes of a container have in common.
func commonProcess(in Input, security securityOptions, name string, tty bool) (*specs.Process, error) {
	hc := in.Container.HostConfig
	u, err := findUser(in, name)
	if err != nil {
		return nil, err
	}
	u.Umask = hc.Umask
	p := &specs.Process{
		Terminal:        tty,
		User:            u,
		Cwd:             in.Container.Config.WorkingDir,
		NoNewPrivileges: security.noNewPrivileges,
		ApparmorProfile: security.appArmorProfile(in.Host, hc.Privileged),
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	for _, limit := range hc.Ulimits {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(limit.Name), Soft: uint64(limit.Soft), Hard: uint64(limit.Hard),
		})
	}
	return p, nil
}

// environment is that of a container: the defaults, and what it was created with.
func environment(cfg *container.Config, tty bool) []string {
	env := []string{defaultPath, "HOSTNAME=" + cfg.Hostname}
	if tty {
		env = append(env, "TERM=xterm")
	}
	return replaceEnv(env, cfg.Env)
}

// replaceEnv sets variables in an environment. A variable without a value is
// removed from it.
func replaceEnv(env, set []string) []string {
	env = slices.Clone(env)
	for _, entry := range set {
		name, _, hasValue := strings.Cut(entry, "=")
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		switch {
		case !hasValue && i >= 0:
			env = slices.Delete(env, i, i+1)
		case !hasValue:
		case i >= 0:
			env[i] = entry
		default:
			env = append(env, entry)
		}
	}
	return env
}

// findUser looks a user up in the files of the image, as user, user:group or
// numbers in their place.
func findUser(in Input, name string) (specs.User, error) {
	groupAdd := in.Container.HostConfig.GroupAdd
	passwd, group := open(in.Passwd), open(in.Group)
	defer passwd.Close()
	defer group.Close()
	u, err := user.GetExecUser(name, nil, passwd, group)
	if err != nil {
		return specs.User{}, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	gids := append([]int{u.Gid}, u.Sgids...)
	if len(groupAdd) > 0 {
		again := open(in.Group)
		defer again.Close()
		more, err := user.GetAdditionalGroups(groupAdd, again)
		if err != nil {
			return specs.User{}, runner.Errorf(runner.ErrInvalid, "%w", err)
		}
		slices.Sort(more) // they come in no order
		gids = append(gids, more...)
	}
	found := specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	for _, gid := range gids {
		if !slices.Contains(found.AdditionalGids, uint32(gid)) {
			found.AdditionalGids = append(found.AdditionalGids, uint32(gid))
		}
	}
	return found, nil
}

// open opens a file of the image. One that cannot be read is as good as empty:
// a user then has to be a number.
func open(f func() (io.ReadCloser, error)) io.ReadCloser {
	empty := io.NopCloser(strings.NewReader(""))
	if f == nil {
		return empty
	}
	r, err := f()
	if err != nil || r == nil {
		return empty
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, maxUserFile), r}
}

// maxUserFile is how much of /etc/passwd or /etc/group is read: the image may
// have made it of any size.
const maxUserFile = 16 << 20
