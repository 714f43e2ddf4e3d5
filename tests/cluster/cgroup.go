package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const cgroupMount = "/sys/fs/cgroup"

// A cluster has one cgroup per hierarchy, /asynctask-NAME. The kubelet makes its pods below it; `system`, in one hierarchy only,
// holds the components and the container shims. So whatever a cluster ever started can be found, even when a component died
// before it could tell.
func cgroupName(cluster string) string { return "asynctask-" + cluster }

func unified() bool { return exists(filepath.Join(cgroupMount, "cgroup.controllers")) }

// hierarchies are the mount points below which a cgroup must be made: one with cgroup v2, one for each controller with v1.
func hierarchies() []string {
	if unified() {
		return []string{cgroupMount}
	}
	var found []string
	entries, _ := os.ReadDir(cgroupMount)
	for _, entry := range entries {
		// Symlinks (cpu -> cpu,cpuacct) are second names of what is listed anyway.
		dir := filepath.Join(cgroupMount, entry.Name())
		if entry.IsDir() && exists(filepath.Join(dir, "cgroup.procs")) {
			found = append(found, dir)
		}
	}
	return found
}

type cgroup string

func (g cgroup) procs() string { return filepath.Join(string(g), "cgroup.procs") }

// systemCgroup is where components go. With v1 they join the pids hierarchy only: it is used to find them, and their memory and
// CPU time stay on the account of whoever started the tool.
func systemCgroup(cluster string) cgroup {
	mount := cgroupMount
	if !unified() {
		mount = filepath.Join(cgroupMount, "pids")
	}
	return cgroup(filepath.Join(mount, cgroupName(cluster), "system"))
}

// makeCgroups makes the cluster's cgroups. The kubelet wants its root in every hierarchy before it starts.
func (c Cluster) makeCgroups() error {
	mounts := hierarchies()
	if len(mounts) == 0 {
		return fmt.Errorf("no cgroup hierarchy below %s: mount cgroup2 (or the v1 controllers) there", cgroupMount)
	}
	for _, mount := range mounts {
		dir := filepath.Join(mount, cgroupName(c.Name))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup %s: %w; is %s writable?", dir, err, cgroupMount)
		}
		// A v1 cpuset is born empty, and nothing may run in an empty one.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if unified() || !exists(filepath.Join(dir, file)) {
				continue
			}
			value, err := os.ReadFile(filepath.Join(mount, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("initialise %s of cgroup %s: %w", file, dir, err)
			}
		}
	}
	if unified() {
		if err := delegate(filepath.Join(cgroupMount, cgroupName(c.Name))); err != nil {
			return err
		}
	}
	return os.MkdirAll(string(systemCgroup(c.Name)), 0o755)
}

// delegate passes all v2 controllers on to the children of a cgroup right below the root.
func delegate(dir string) error {
	for _, parent := range []string{cgroupMount, dir} {
		controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, controller := range strings.Fields(string(controllers)) {
			file := filepath.Join(parent, "cgroup.subtree_control")
			if err := os.WriteFile(file, []byte("+"+controller), 0o644); err != nil {
				return fmt.Errorf("enable controller %s in %s: %w; in a container, move its processes out of the root cgroup first", controller, file, err)
			}
		}
	}
	return nil
}

// cgroups lists the cluster's cgroups in all hierarchies, children before parents.
func cgroups(cluster string) []cgroup {
	var found []cgroup
	mounts := append(hierarchies(), filepath.Join(cgroupMount, "unified"))
	for _, mount := range mounts {
		_ = filepath.WalkDir(filepath.Join(mount, cgroupName(cluster)), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				found = append(found, cgroup(path))
			}
			return nil
		})
	}
	sort.SliceStable(found, func(i, j int) bool {
		return strings.Count(string(found[i]), "/") > strings.Count(string(found[j]), "/")
	})
	return found
}

func (g cgroup) pids() []int {
	data, err := os.ReadFile(g.procs())
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killCgroups ends what is still in the cluster's cgroups that `which` selects. Membership is by inheritance and the cgroup is
// ours alone, so every process in it was started by this cluster.
func killCgroups(cluster string, which func(cgroup) bool) error {
	var left []int
	gone := waitUntil(20*time.Second, func() bool {
		left = nil
		for _, group := range cgroups(cluster) {
			if which(group) {
				left = append(left, group.pids()...)
			}
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	})
	if !gone {
		return fmt.Errorf("processes %v of cluster %s survive SIGKILL: they hang in the kernel; see /proc/PID/stack", left, cluster)
	}
	return nil
}

// removeCgroups removes the cluster's empty cgroups.
func removeCgroups(cluster string) error {
	var last error
	// A cgroup whose last process is just being reaped is busy for a moment.
	waitUntil(5*time.Second, func() bool {
		last = nil
		for _, group := range cgroups(cluster) {
			if err := syscall.Rmdir(string(group)); err != nil && !errors.Is(err, syscall.ENOENT) {
				last = fmt.Errorf("remove cgroup %s: %w", group, err)
			}
		}
		return last == nil
	})
	return last
}
