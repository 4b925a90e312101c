package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The two places of a measurement.
const (
	nameContainer = "in a container"
	nameHost      = "on its host"
	nameVeth      = "without a bridge"
)

// hostRatios measures what a container of berth-runner gets of its host: the same
// programs, from the host's /usr, run alternately in a container and on the host,
// which here is that of the engines. Written is to the container's own layer and to
// the filesystem that holds it. The network is from the host to a container,
// beside a pair of interfaces between the host and a plain network namespace. The
// best of several tries is the value of a run.
func hostRatios(ctx context.Context, b *bench) ([]*figure, error) {
	r, err := b.startImages(ctx)
	if err != nil {
		return nil, err
	}
	e, err := b.startEngine(ctx, nameRunner)
	if err != nil {
		return nil, err
	}
	if err := e.pull(ctx, r.tools()); err != nil {
		return nil, err
	}
	id, err := e.running(ctx, toolsContainer(r, forever...))
	if err != nil {
		return nil, err
	}
	onHost := func(args ...string) (string, error) { return output(exec.CommandContext(ctx, args[0], args[1:]...)) }
	inContainer := func(args ...string) (string, error) {
		return output(e.command(ctx, append([]string{"exec", id}, args...)...))
	}
	var figures []*figure
	for _, m := range b.measurements() {
		f := &figure{Name: m.name, Unit: m.unit}
		host, container := m.args(b.dir), m.args("/tmp")
		inside, outside := b.alternate(
			func() (float64, error) { return m.once(inContainer, container) },
			func() (float64, error) { return m.once(onHost, host) })
		if err := b.interleave(ctx, f, turn{nameContainer, e.server, inside}, turn{nameHost, nil, outside}); err != nil {
			return nil, err
		}
		f.ratio(nameContainer, nameHost, atLeast(m.goal))
		figures = append(figures, f)
	}
	f, err := b.networkRatio(ctx, e, r)
	return append(figures, f), err
}

// toolsContainer runs a program of the host.
func toolsContainer(r *images, command ...string) container {
	c := newContainer(r.tools(), command...)
	c.HostConfig.Binds = []string{"/usr:/usr:ro"}
	c.Env = []string{"LC_ALL=C"}
	return c
}

// measurement is a program that says how fast it was.
type measurement struct {
	name, unit string
	goal       float64
	args       func(dir string) []string // it may write to dir
	value      *regexp.Regexp            // in its output: a rate, or how long amount took
	amount     float64
}

func (b *bench) measurements() []measurement {
	sysbench := func(test ...string) func(string) []string {
		args := append([]string{"sysbench", fmt.Sprint("--time=", b.trySeconds)}, test...)
		return func(string) []string { return append(args, "run") }
	}
	memory := func(oper string) func(string) []string {
		return sysbench("memory", "--memory-oper="+oper, "--memory-block-size=1M", "--memory-total-size=100T")
	}
	dd := func(dir string) []string {
		return []string{"sh", "-c", fmt.Sprintf("dd if=/dev/zero of=%[1]s bs=1M count=%d conv=fdatasync 2>&1 && rm %[1]s", filepath.Join(dir, "written"), b.written/mb)}
	}
	rate := regexp.MustCompile(`([0-9.]+) MiB/sec`)
	return []measurement{
		{"sysbench cpu", "events/s", 0.99, sysbench("cpu"), regexp.MustCompile(`events per second: *([0-9.]+)`), 0},
		{"sysbench memory read", "MB/s", 0.98, memory("read"), rate, 0},
		{"sysbench memory write", "MB/s", 1.00, memory("write"), rate, 0},
		{"dd of " + megabytes(b.written) + ", synced", "MB/s", 0.98, dd, regexp.MustCompile(`copied, ([0-9.]+) s`), float64(b.written / mb)},
	}
}

// once runs the program and returns its value.
func (m measurement) once(run func(...string) (string, error), args []string) (float64, error) {
	out, err := run(args...)
	if err != nil {
		return 0, err
	}
	found := m.value.FindStringSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("%v says: %s", args, out)
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if m.amount > 0 {
		value = m.amount / value
	}
	return value, err
}

// alternate makes of two measurements what the two turns of a run measure: the
// first turn lets one try follow the other, several times over, so that what
// disturbs one disturbs both, and each turn has the greatest value of its own.
func (b *bench) alternate(one, other func() (float64, error)) (first, second func() (float64, error)) {
	var most [2]float64
	first = func() (float64, error) {
		most = [2]float64{}
		for range b.tries {
			for i, measure := range []func() (float64, error){one, other} {
				syscall.Sync()
				value, err := measure()
				if err != nil {
					return 0, err
				}
				most[i] = max(most[i], value)
			}
		}
		return most[0], nil
	}
	return first, func() (float64, error) { return most[1], nil }
}

// networkRatio measures a stream from the host to a container.
func (b *bench) networkRatio(ctx context.Context, e *engine, r *images) (*figure, error) {
	id, err := e.running(ctx, toolsContainer(r, "iperf3", "--server"))
	if err != nil {
		return nil, err
	}
	var c struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := e.call(ctx, "GET", "/containers/"+id+"/json", nil, &c); err != nil {
		return nil, err
	}
	bridged := c.NetworkSettings.Networks["bridge"].IPAddress
	if _, err := plainHost("iperf3", "--server"); err != nil {
		return nil, err
	}
	f := &figure{Name: "iperf3, host to container", Unit: "Mbit/s"}
	if err := errors.Join(b.awaitIperf(ctx, bridged), b.awaitIperf(ctx, plainThere)); err != nil {
		return nil, err
	}
	inside, outside := b.alternate(
		func() (float64, error) { return b.iperf(ctx, bridged) },
		func() (float64, error) { return b.iperf(ctx, plainThere) })
	if err := b.interleave(ctx, f, turn{nameContainer, e.server, inside}, turn{nameVeth, nil, outside}); err != nil {
		return nil, err
	}
	f.ratio(nameContainer, nameVeth, atLeast(0.96))
	return f, nil
}

// The addresses of the two ends of a pair of interfaces.
const (
	plainHere  = "192.0.2.1"
	plainThere = "192.0.2.2"
)

// plainHost starts a program in a network namespace that a pair of interfaces leads
// to, and returns its process.
func plainHost(command ...string) (pid int, err error) {
	// It waits for its interface.
	cmd := exec.Command("sh", append([]string{"-c", `read -r _ && exec "$@"`, "sh"}, command...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil { // it ends with the host
		return 0, err
	}
	ns, err := netns.GetFromPid(cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return 0, err
	}
	defer inside.Close()
	outside, err := netlink.NewHandle()
	if err != nil {
		return 0, err
	}
	defer outside.Close()
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: "plain"})
	pair.PeerName, pair.PeerNamespace = "plain0", netlink.NsFd(ns)
	if err := outside.LinkAdd(pair); err != nil {
		return 0, err
	}
	if err := errors.Join(address(outside, "plain", plainHere+"/30"), address(inside, "plain0", plainThere+"/30")); err != nil {
		return 0, err
	}
	_, err = stdin.Write([]byte("go\n"))
	return cmd.Process.Pid, err
}

// address gives an interface an address and turns it on.
func address(h *netlink.Handle, name, cidr string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(h.AddrAdd(link, addr), h.LinkSetUp(link))
}

// iperf returns the rate of a stream, in Mbit/s.
func (b *bench) iperf(ctx context.Context, addr string) (float64, error) {
	out, err := output(exec.CommandContext(ctx, "iperf3", "--client", addr, "--time", strconv.Itoa(b.trySeconds), "--json"))
	if err != nil {
		return 0, err
	}
	var result struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	err = json.Unmarshal([]byte(out), &result)
	return result.End.Received.Rate / 1e6, err
}

// awaitIperf waits until a server answers.
func (b *bench) awaitIperf(ctx context.Context, addr string) error {
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := output(exec.CommandContext(ctx, "iperf3", "--client", addr, "--bytes", "1K"))
		if err == nil || ctx.Err() != nil || time.Now().After(limit) {
			return err
		}
	}
}
