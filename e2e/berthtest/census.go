package berthtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Census is all that programs have made of a machine: a line for each mount,
// network link, network namespace, rule and set of nftables, cgroup, process,
// and file below the directories that were asked for. It is sorted.
type Census []string

// Census counts what is on the machine now. dirs are directories of it.
func (m *Machine) Census(tb testing.TB, dirs ...string) Census {
	tb.Helper()
	var c Census
	add := func(kind, text string) {
		for line := range strings.Lines(text) {
			c = append(c, kind+" "+strings.TrimRight(line, "\n"))
		}
	}
	c = append(c, m.mounts(tb)...)
	ip := func(args ...string) string { return NewCommand(tb, "ip", "-o").On(m).Run(args...) }
	add("link", columns(ip("link"), 1))
	add("address", columns(ip("-4", "address"), 1, 3))
	add("address", columns(ip("-6", "address", "show", "scope", "global"), 1, 3))
	add("route", columns(ip("-4", "route"), 0, 2))
	add("rule", columns(ip("rule"), 0, 1, 2, 3, 4))
	add("nft", NewCommand(tb, "nft").On(m).Run("list", "ruleset"))
	groups, err := m.cgroups.list()
	if err != nil {
		tb.Fatal(err)
	}
	for _, g := range groups {
		c = append(c, "cgroup "+g)
	}
	c = append(c, m.processes(tb)...)
	for _, dir := range dirs {
		c = append(c, files(tb, m.Path(dir), dir)...)
	}
	slices.Sort(c)
	return c
}

// columns takes columns from each line of a text: what ip(8) says of the state
// of a link, or its number, differs from one look to the next.
func columns(text string, take ...int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		for _, i := range take {
			if i < len(fields) {
				b.WriteString(fields[i] + " ")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// mounts lists the machine's mounts, by where they are and what they are.
func (m *Machine) mounts(tb testing.TB) []string {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", m.init.cmd.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		found = append(found, "mount "+f[1]+" "+f[2])
	}
	return found
}

// processes lists the machine's processes by their command lines, and the
// network namespaces and mount namespaces that they are in beyond its own.
func (m *Machine) processes(tb testing.TB) []string {
	tb.Helper()
	entries, err := os.ReadDir(m.Path("proc"))
	if err != nil {
		tb.Fatal(err)
	}
	proc := func(pid, file string) string { return m.Path("proc", pid, file) }
	own := map[string]bool{}
	var found []string
	for _, kind := range []string{"net", "mnt"} {
		ns, _ := os.Readlink(proc("1", "ns/"+kind)) // the init is there
		own[ns] = true
	}
	for _, e := range entries {
		line, err := os.ReadFile(proc(e.Name(), "cmdline"))
		if err != nil {
			continue // it is no process, or has ended
		}
		if len(line) == 0 { // a zombie
			line, _ = os.ReadFile(proc(e.Name(), "comm"))
			found = append(found, zombie+strings.TrimSpace(string(line)))
			continue
		}
		found = append(found, "process "+strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
		tasks, _ := filepath.Glob(proc(e.Name(), "task/*/ns")) // none of one that has ended
		for _, task := range append(tasks, proc(e.Name(), "fd")) {
			found = append(found, held(task, own)...)
		}
	}
	return found
}

const zombie = "zombie "

// Zombies are the lines of processes that have ended, and that their parents
// have not taken note of.
func (c Census) Zombies() (lines []string) {
	for _, line := range c {
		if strings.HasPrefix(line, zombie) {
			lines = append(lines, line)
		}
	}
	return lines
}

// ContainerLinks are the lines of the host's ends of interfaces of containers.
func (c Census) ContainerLinks() (lines []string) {
	for _, line := range c {
		if strings.HasPrefix(line, "link ve") {
			lines = append(lines, line)
		}
	}
	return lines
}

// held lists the namespaces that a directory of /proc has links to.
func held(dir string, seen map[string]bool) []string {
	links, err := os.ReadDir(dir)
	if err != nil {
		return nil // the process has ended
	}
	var found []string
	for _, link := range links {
		target, err := os.Readlink(filepath.Join(dir, link.Name()))
		kind, _, isNS := strings.Cut(target, ":[")
		if err == nil && isNS && (kind == "net" || kind == "mnt") && !seen[target] {
			seen[target] = true
			found = append(found, "namespace "+kind)
		}
	}
	return found
}

// files lists what is below a directory, which need not be there.
func files(tb testing.TB, dir, name string) []string {
	tb.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		found = append(found, "file "+name+strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// Diff says what later has more and what it has less, or nothing if they are the
// same.
func (c Census) Diff(later Census) string {
	count := map[string]int{}
	for _, line := range c {
		count[line]--
	}
	for _, line := range later {
		count[line]++
	}
	var b strings.Builder
	for _, line := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(c, later)))) {
		if n := count[line]; n != 0 {
			fmt.Fprintf(&b, "%+d %s\n", n, line)
		}
	}
	return b.String()
}

// Settle takes censuses until one is like c, and fails the test if none is in a
// while: what ends may take its time, but it ends.
func Settle(tb testing.TB, c Census, census func() Census) {
	tb.Helper()
	const patience = 15 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		diff := c.Diff(census())
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			tb.Errorf("the machine is not as it was:\n%s", tail(diff, 8<<10))
			return
		}
	}
}

// Descriptors counts the open files of a process by what they are.
func (d *daemon) Descriptors() Census {
	d.tb.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", d.Pid())
	fds, err := os.ReadDir(dir)
	if err != nil {
		d.tb.Fatal(err)
	}
	var c Census
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			continue // it was closed just now
		}
		kind, _, _ := strings.Cut(target, ":[") // of what has a number, the number says nothing
		c = append(c, "descriptor "+kind)
	}
	slices.Sort(c)
	return c
}
