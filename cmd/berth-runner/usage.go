package main

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/moby/moby/api/types/container"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-registry/berth/runner/engine"
)

// usageDescs are the metrics of each container. Their names and labels are those
// of cAdvisor where it has them, so that what was made for it shows these.
type usageDescs struct {
	values     []usageValue
	failures   *prometheus.Desc
	restarts   *prometheus.Desc
	health     *prometheus.Desc
	interfaces []interfaceValue
	blocks     []blockValue
}

// usageValue is a metric with one value for each container that runs.
type usageValue struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(u engine.ContainerUsage) float64
}

type interfaceValue struct {
	desc *prometheus.Desc
	of   func(n container.NetworkStats) uint64
}

type blockValue struct {
	desc *prometheus.Desc
	op   string
	of   func(s *container.StatsResponse) []container.BlkioStatEntry
}

func usageDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"id", "name", "image"}, labels...), nil)
}

func newUsageDescs() usageDescs {
	d := usageDescs{
		failures: usageDesc("container_memory_failures_total", "Page faults; pgmajfault are those that had to wait for a disk.", "failure_type", "scope"),
		restarts: usageDesc("berth_runner_container_restarts_total", "Starts by the restart policy."),
		health:   usageDesc("berth_runner_container_health", "1 for what the health check says.", "status"),
	}
	d.addCPU()
	d.addMemory()
	d.addLife()
	d.addNetwork()
	d.addBlocks()
	return d
}

func (d *usageDescs) gauge(name, help string, of func(u engine.ContainerUsage) float64) {
	d.values = append(d.values, usageValue{usageDesc(name, help), prometheus.GaugeValue, of})
}

func (d *usageDescs) counter(name, help string, of func(u engine.ContainerUsage) float64) {
	d.values = append(d.values, usageValue{usageDesc(name, help), prometheus.CounterValue, of})
}

func seconds(nanoseconds uint64) float64 { return float64(nanoseconds) / float64(time.Second) }

func (d *usageDescs) addCPU() {
	cpu := func(u engine.ContainerUsage) container.CPUStats { return u.Sample.CPUStats }
	d.counter("container_cpu_usage_seconds_total", "Time of processors used.", func(u engine.ContainerUsage) float64 { return seconds(cpu(u).CPUUsage.TotalUsage) })
	d.counter("container_cpu_user_seconds_total", "Of that, by the processes themselves.", func(u engine.ContainerUsage) float64 { return seconds(cpu(u).CPUUsage.UsageInUsermode) })
	d.counter("container_cpu_system_seconds_total", "Of that, by the kernel for them.", func(u engine.ContainerUsage) float64 { return seconds(cpu(u).CPUUsage.UsageInKernelmode) })
	d.counter("container_cpu_cfs_periods_total", "Periods of a limit of processor time.", func(u engine.ContainerUsage) float64 { return float64(cpu(u).ThrottlingData.Periods) })
	d.counter("container_cpu_cfs_throttled_periods_total", "Of those, in which it was held back.", func(u engine.ContainerUsage) float64 { return float64(cpu(u).ThrottlingData.ThrottledPeriods) })
	d.counter("container_cpu_cfs_throttled_seconds_total", "Time for which it was held back.", func(u engine.ContainerUsage) float64 { return seconds(cpu(u).ThrottlingData.ThrottledTime) })
	d.gauge("container_spec_cpu_period", "Length of the period of the limit, in microseconds.", func(u engine.ContainerUsage) float64 {
		period, _ := cpuLimit(u.Container.HostConfig.Resources)
		return float64(period)
	})
	d.gauge("container_spec_cpu_quota", "Processor time in each period, in microseconds; 0 is no limit.", func(u engine.ContainerUsage) float64 {
		_, quota := cpuLimit(u.Container.HostConfig.Resources)
		return float64(quota)
	})
	d.gauge("container_spec_cpu_shares", "Weight among others.", func(u engine.ContainerUsage) float64 {
		const byDefault = 1024
		return float64(cmp.Or(u.Container.HostConfig.CPUShares, byDefault))
	})
}

// cpuLimit returns the period and the quota of processor time, in microseconds.
func cpuLimit(r container.Resources) (period, quota int64) {
	const byDefault = 100_000
	if r.NanoCPUs > 0 {
		return byDefault, r.NanoCPUs * byDefault / 1e9
	}
	return cmp.Or(r.CPUPeriod, byDefault), max(0, r.CPUQuota)
}

func (d *usageDescs) addMemory() {
	// stat is the first of the keys that the host's version of cgroups has.
	stat := func(keys ...string) func(u engine.ContainerUsage) float64 {
		return func(u engine.ContainerUsage) float64 { return float64(memoryStat(u.Sample, keys...)) }
	}
	d.gauge("container_memory_usage_bytes", "Memory, with what the kernel keeps of files.", func(u engine.ContainerUsage) float64 { return float64(u.Sample.MemoryStats.Usage) })
	d.gauge("container_memory_working_set_bytes", "Memory, without what the kernel keeps of files and could give up.", func(u engine.ContainerUsage) float64 {
		usage, inactive := u.Sample.MemoryStats.Usage, memoryStat(u.Sample, "total_inactive_file", "inactive_file")
		return float64(usage - min(usage, inactive))
	})
	d.gauge("container_memory_rss", "Memory that is of no file.", stat("total_rss", "anon"))
	d.gauge("container_memory_cache", "What the kernel keeps of files.", stat("total_cache", "file"))
	d.gauge("container_memory_mapped_file", "Of that, what processes have mapped.", stat("total_mapped_file", "file_mapped"))
	d.gauge("container_memory_swap", "Swap; on cgroup version 1 alone.", stat("total_swap"))
	d.gauge("container_memory_max_usage_bytes", "The most memory so far; on cgroup version 1 alone.", func(u engine.ContainerUsage) float64 { return float64(u.Sample.MemoryStats.MaxUsage) })
	d.counter("container_memory_failcnt", "Times that memory was at its limit.", func(u engine.ContainerUsage) float64 { return float64(u.Sample.MemoryStats.Failcnt) })
	d.gauge("container_spec_memory_limit_bytes", "Limit of memory; 0 is none.", func(u engine.ContainerUsage) float64 { return float64(u.Container.HostConfig.Memory) })
	d.gauge("container_spec_memory_swap_limit_bytes", "Limit of memory and swap together; 0 is none.", func(u engine.ContainerUsage) float64 { return float64(max(0, u.Container.HostConfig.MemorySwap)) })
	d.gauge("container_spec_memory_reservation_limit_bytes", "Memory that it is to have when there is little; 0 is none.", func(u engine.ContainerUsage) float64 {
		return float64(u.Container.HostConfig.MemoryReservation)
	})
	d.counter("container_oom_events_total", "Times that the kernel killed for want of memory, since the runner started.", func(u engine.ContainerUsage) float64 { return float64(u.OOMs) })
}

func memoryStat(s *container.StatsResponse, keys ...string) uint64 {
	for _, key := range keys {
		if n, ok := s.MemoryStats.Stats[key]; ok {
			return n
		}
	}
	return 0
}

func (d *usageDescs) addLife() {
	d.gauge("container_threads", "Processes and threads.", func(u engine.ContainerUsage) float64 { return float64(u.Sample.PidsStats.Current) })
	d.gauge("container_threads_max", "Limit of those; 0 is none.", func(u engine.ContainerUsage) float64 { return float64(u.Sample.PidsStats.Limit) })
	d.gauge("container_start_time_seconds", "When it was started, since 1970.", func(u engine.ContainerUsage) float64 { return float64(u.State.StartedAt.Unix()) })
	d.gauge("container_last_seen", "When it was sampled, since 1970.", func(u engine.ContainerUsage) float64 { return float64(u.Sample.Read.Unix()) })
}

func (d *usageDescs) addNetwork() {
	add := func(name, help string, of func(n container.NetworkStats) uint64) {
		d.interfaces = append(d.interfaces, interfaceValue{usageDesc(name, help, "interface"), of})
	}
	add("container_network_receive_bytes_total", "Bytes received.", func(n container.NetworkStats) uint64 { return n.RxBytes })
	add("container_network_receive_packets_total", "Packets received.", func(n container.NetworkStats) uint64 { return n.RxPackets })
	add("container_network_receive_errors_total", "Errors of receiving.", func(n container.NetworkStats) uint64 { return n.RxErrors })
	add("container_network_receive_packets_dropped_total", "Packets dropped that came in.", func(n container.NetworkStats) uint64 { return n.RxDropped })
	add("container_network_transmit_bytes_total", "Bytes sent.", func(n container.NetworkStats) uint64 { return n.TxBytes })
	add("container_network_transmit_packets_total", "Packets sent.", func(n container.NetworkStats) uint64 { return n.TxPackets })
	add("container_network_transmit_errors_total", "Errors of sending.", func(n container.NetworkStats) uint64 { return n.TxErrors })
	add("container_network_transmit_packets_dropped_total", "Packets dropped that were to go out.", func(n container.NetworkStats) uint64 { return n.TxDropped })
}

func (d *usageDescs) addBlocks() {
	add := func(name, help, op string, of func(s *container.StatsResponse) []container.BlkioStatEntry) {
		d.blocks = append(d.blocks, blockValue{usageDesc(name, help, "device"), op, of})
	}
	bytes := func(s *container.StatsResponse) []container.BlkioStatEntry {
		return s.BlkioStats.IoServiceBytesRecursive
	}
	count := func(s *container.StatsResponse) []container.BlkioStatEntry { return s.BlkioStats.IoServicedRecursive }
	add("container_fs_reads_bytes_total", "Bytes read from a disk.", "read", bytes)
	add("container_fs_writes_bytes_total", "Bytes written to a disk.", "write", bytes)
	add("container_fs_reads_total", "Reads from a disk.", "read", count)
	add("container_fs_writes_total", "Writes to a disk.", "write", count)
}

func (d *usageDescs) describe(ch chan<- *prometheus.Desc) {
	for _, v := range d.values {
		ch <- v.desc
	}
	for _, v := range d.interfaces {
		ch <- v.desc
	}
	for _, v := range d.blocks {
		ch <- v.desc
	}
	ch <- d.failures
	ch <- d.restarts
	ch <- d.health
}

// collect sends the metrics of one container.
func (d *usageDescs) collect(ch chan<- prometheus.Metric, u engine.ContainerUsage, names devices) {
	rec := u.Container
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(desc, kind, value, append([]string{u.Cgroup, rec.Name, rec.Config.Image}, more...)...)
	}
	send(d.restarts, prometheus.CounterValue, float64(u.State.RestartCount))
	if u.State.Running() && u.Health != container.NoHealthcheck {
		for _, status := range []container.HealthStatus{container.Starting, container.Healthy, container.Unhealthy} {
			value := 0.0
			if status == u.Health {
				value = 1
			}
			send(d.health, prometheus.GaugeValue, value, string(status))
		}
	}
	if u.Sample == nil {
		return
	}
	for _, v := range d.values {
		send(v.desc, v.kind, v.of(u))
	}
	send(d.failures, prometheus.CounterValue, float64(memoryStat(u.Sample, "total_pgfault", "pgfault")), "pgfault", "container")
	send(d.failures, prometheus.CounterValue, float64(memoryStat(u.Sample, "total_pgmajfault", "pgmajfault")), "pgmajfault", "container")
	if u.OwnNetwork {
		for name, n := range u.Sample.Networks {
			if !utf8.ValidString(name) {
				name = strconv.QuoteToASCII(name) // the container has named it
			}
			for _, v := range d.interfaces {
				send(v.desc, prometheus.CounterValue, float64(v.of(n)), name)
			}
		}
	}
	for _, v := range d.blocks {
		for _, e := range v.of(u.Sample) {
			if e.Op == v.op {
				send(v.desc, prometheus.CounterValue, float64(e.Value), names.name(e.Major, e.Minor))
			}
		}
	}
}

// devices are the names of disks, by their numbers, for the length of a scrape.
type devices map[string]string

// name returns the file of a disk, or its numbers if it has none.
func (d devices) name(major, minor uint64) string {
	number := fmt.Sprintf("%d:%d", major, minor)
	if name, ok := d[number]; ok {
		return name
	}
	d[number] = number
	text, err := os.ReadFile("/sys/dev/block/" + number + "/uevent")
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			d[number] = "/dev/" + name
		}
	}
	return d[number]
}
