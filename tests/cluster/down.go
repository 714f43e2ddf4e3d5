package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// down stops a cluster and removes all it made. It needs no record to be complete, or even there: it follows what the machine
// shows (cgroups, mounts, links), so it also ends a half-failed boot.
func down(cache Cache, name string) error {
	began := time.Now()
	if err := checkName(name); err != nil {
		return err
	}
	release, err := hold(cache.lock(name), func() { say("another command works on cluster %s: waiting for it", name) })
	if err != nil {
		return err
	}
	defer release()
	c := Cluster{Name: name, Slot: -1, cache: cache}
	if recorded, err := cache.load(name); err == nil {
		c = recorded
	}
	if !exists(c.Path()) && len(cgroups(name)) == 0 {
		say("cluster %s is not there", name)
		return nil
	}
	if err := c.remove(); err != nil {
		return fmt.Errorf("cluster %s is not wholly down: %w; then repeat `down --name %s`", name, err, name)
	}
	removeShared()
	say("cluster %s is down after %s", name, since(began))
	return nil
}

// remove stops everything and removes the state directory.
func (c Cluster) remove() error {
	for _, step := range []func() error{c.stopAll, c.removeTraces, func() error { return unmountBelow(c.Path()) }, c.removeNetwork} {
		if err := step(); err != nil {
			return err
		}
	}
	// Not across a mount that is still there after all: a volume's content is not ours.
	if left, err := mountsBelow(c.Path()); err != nil || len(left) > 0 {
		return errors.Join(err, fmt.Errorf("still mounted: %s", strings.Join(left, " ")))
	}
	if err := os.Remove(c.scratch()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.RemoveAll(c.Path())
}

// removeShared removes the directories that components make at fixed places for all clusters of a machine, once the last
// cluster (of any cache) is gone and as far as nothing is in them.
func removeShared() {
	if links, _ := filepath.Glob("/sys/class/net/" + linkPrefix + "*"); len(links) > 0 {
		return
	}
	const plugins = "/var/lib/kubelet/device-plugins"
	_ = os.Remove(filepath.Join(plugins, "kubelet.sock"))
	for _, dir := range []string{plugins, "/var/lib/kubelet", "/var/lib/cni/results", "/var/lib/cni", "/var/log/containers",
		"/run/containerd/s", "/run/containerd"} {
		_ = os.Remove(dir)
	}
}

func downAll(cache Cache) error {
	clusters, err := cache.all()
	if err != nil {
		return err
	}
	var failures []error
	for _, c := range clusters {
		failures = append(failures, down(cache, c.Name))
	}
	return errors.Join(failures...)
}

// stopAll ends every process of the cluster. The kubelet first, or it would start killed containers again. Nobody is given
// long to finish: the state is thrown away.
func (c Cluster) stopAll() error {
	if err := c.stop("kubelet", 2*time.Second); err != nil {
		return err
	}
	system := systemCgroup(c.Name)
	if err := killCgroups(c.Name, func(g cgroup) bool { return g != system }); err != nil {
		return err
	}
	pids, _ := filepath.Glob(c.Path("pids", "*"))
	done := make(chan error, len(pids))
	for _, file := range pids {
		go func() { done <- c.stop(filepath.Base(file), time.Second) }()
	}
	for range pids {
		if err := <-done; err != nil {
			return err
		}
	}
	// Container shims, and components that died before their pid was recorded.
	if err := killCgroups(c.Name, func(cgroup) bool { return true }); err != nil {
		return err
	}
	return removeCgroups(c.Name)
}

// removeTraces removes what components put at fixed places outside the state directory.
func (c Cluster) removeTraces() error {
	var traces []string
	// CNI results, named by network.
	results, _ := filepath.Glob(filepath.Join("/var/lib/cni/results", cniNetwork(c.Name)+"-*"))
	traces = append(traces, results...)
	// The kubelet's links to container logs.
	links, _ := filepath.Glob("/var/log/containers/*.log")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, c.Path()+"/") {
			traces = append(traces, link)
		}
	}
	// Sockets of shims that could not clean up.
	bundles, _ := filepath.Glob(c.Path("containerd", "state", "io.containerd.runtime.v2.task", "*", "*", "bootstrap.json"))
	for _, file := range bundles {
		var bootstrap struct{ Address string }
		if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &bootstrap) == nil {
			traces = append(traces, strings.TrimPrefix(bootstrap.Address, "unix://"))
		}
	}
	for _, trace := range traces {
		if err := os.Remove(trace); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
