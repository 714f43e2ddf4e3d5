package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// bootLimit is far above the worst seen (two cores busy with other builds); something that takes longer does not come.
const bootLimit = 4 * time.Minute

// up boots a cluster, or completes one that is partly up. It is safe to repeat.
func up(cache Cache, name string, slot *Slot) error {
	began := time.Now()
	if err := preflight(); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	programs, err := build(cache)
	if err != nil {
		return err
	}
	release, err := hold(cache.lock(name), func() { say("another command works on cluster %s: waiting for it", name) })
	if err != nil {
		return err
	}
	defer release()
	c, err := cache.claim(name, slot, programs)
	if err != nil {
		return err
	}
	if err := c.boot(began); err != nil {
		return fmt.Errorf("%w\nremove what was started with `down --name %s`", err, name)
	}
	say("cluster %s is up after %s: slot %d, API server %s, logs in %s", name, since(began), c.Slot, c.Slot.APIServer(), c.Path("logs"))
	return nil
}

// preflight finds what would fail late and obscurely.
func preflight() error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster makes namespaces, mounts and cgroups: run this as root")
	}
	// The kubelet ends if it cannot watch the kernel's log for memory kills.
	if !exists("/dev/kmsg") {
		return errors.New("/dev/kmsg is missing, and the kubelet needs it: `mknod /dev/kmsg c 1 11`, or in a container `ln -s /dev/console /dev/kmsg`")
	}
	return nil
}

// claim finds the cluster's record, or makes one with a slot of its own.
func (cache Cache) claim(name string, slot *Slot, programs Programs) (Cluster, error) {
	release, err := hold(cache.lock(".slots"), func() {})
	if err != nil {
		return Cluster{}, err
	}
	defer release()
	boot, err := bootID()
	if err != nil {
		return Cluster{}, err
	}
	c, err := cache.load(name)
	switch {
	case err == nil && c.Boot != boot:
		// Mounts and processes are gone, and with them what the state directory describes.
		say("the machine was restarted since cluster %s was booted: it begins anew", name)
		if err := c.remove(); err != nil {
			return c, err
		}
		if err := c.mountScratch(); err != nil {
			return c, err
		}
	case err == nil:
		if slot != nil && *slot != c.Slot {
			return c, fmt.Errorf("cluster %s has slot %d, not %d: `down --name %s` first", name, c.Slot, *slot, name)
		}
		if c.running() > 0 {
			// What runs was started from these binaries; what is started now must fit.
			return c, nil
		}
	case errors.Is(err, errNoCluster):
		clusters, err := cache.all()
		if err != nil {
			return c, err
		}
		chosen, err := chooseSlot(slot, clusters, linkExists)
		if err != nil {
			return c, err
		}
		c = Cluster{Name: name, Slot: chosen, cache: cache}
		if err := c.mountScratch(); err != nil {
			return c, err
		}
	default:
		return c, err
	}
	if longest := c.longestSocket(); len(longest) > socketPathLimit {
		return c, fmt.Errorf("%s is longer than a socket path may be (%d): set ASYNCTASK_CACHE to a shorter directory", longest, socketPathLimit)
	}
	c.Programs, c.Boot = programs, boot
	return c, c.save()
}

func (c Cluster) running() int {
	n := 0
	for _, comp := range c.components() {
		if _, ok := c.process(comp.name); ok {
			n++
		}
	}
	return n
}

func (c Cluster) boot(began time.Time) error {
	steps := []func() error{c.forgetDead, c.makeNetwork, c.makeCgroups, c.makePKI, c.writeConfigs, c.linkPrograms}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	say("network, cgroups, certificates, configuration: after %s", since(began))
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()

	var first, rest []component
	for _, comp := range c.components() {
		if comp.first {
			first = append(first, comp)
		} else {
			rest = append(rest, comp)
		}
	}
	if err := c.startAll(ctx, began, first); err != nil {
		return err
	}
	// Before the kubelet asks for a sandbox.
	if err := c.importImages(c.Programs.pauseImage()); err != nil {
		return err
	}
	for _, o := range c.objects() {
		if err := c.await(ctx, func(ctx context.Context) error { return c.create(ctx, o) }); err != nil {
			return fmt.Errorf("create %s: %w", o.path, err)
		}
	}
	if err := c.startAll(ctx, began, rest); err != nil {
		return err
	}
	for what, check := range map[string]func(context.Context) error{"node": c.nodeReady, "default service account": c.accountReady} {
		if err := c.await(ctx, check); err != nil {
			return fmt.Errorf("wait for the %s: %w", what, err)
		}
		say("%s ready after %s", what, since(began))
	}
	if err := c.await(ctx, c.declareStorage); err != nil {
		return fmt.Errorf("declare the node's storage: %w", err)
	}
	return nil
}

// startAll starts components together and waits until each serves.
func (c Cluster) startAll(ctx context.Context, began time.Time, comps []component) error {
	for _, comp := range comps {
		if err := c.start(comp); err != nil {
			return err
		}
	}
	failures := make([]error, len(comps))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for i, comp := range comps {
		all.Go(func() {
			if err := c.await(ctx, comp.ready); err != nil {
				failures[i] = fmt.Errorf("%s does not become ready: %w", comp.name, err)
				// One is enough: do not wait for the others.
				cancel()
				return
			}
			say("%s ready after %s", comp.name, since(began))
		})
	}
	all.Wait()
	for _, err := range failures {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return ctx.Err()
}

// await repeats a check until it passes. It gives up when the time is over or when a started component has died, for then it
// cannot pass any more.
func (c Cluster) await(ctx context.Context, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if dead := c.dead(); dead != "" {
			return fmt.Errorf("%s has died; the end of %s:\n%s", dead, c.logFile(dead), c.tail(dead, 15))
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("time is over; last seen: %w; see `logs COMPONENT`", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// forgetDead removes the records of components that ended before this run, so that who dies from now on is noticed.
func (c Cluster) forgetDead() error {
	for name := c.dead(); name != ""; name = c.dead() {
		if err := os.Remove(c.pidFile(name)); err != nil {
			return err
		}
	}
	return nil
}

// dead names a component that was started and no longer runs.
func (c Cluster) dead() string {
	for _, comp := range c.components() {
		if _, running := c.process(comp.name); !running && exists(c.pidFile(comp.name)) {
			return comp.name
		}
	}
	return ""
}

// linkPrograms makes the directory that `env` puts on PATH.
func (c Cluster) linkPrograms() error {
	links := map[string]string{
		"kubectl": c.Programs.binary("kube", "kube"),
		"ctr":     c.Programs.binary("containerd", "ctr"),
		"helm":    c.Programs.binary("helm", "helm"),
	}
	if err := os.MkdirAll(c.Path("path"), 0o755); err != nil {
		return err
	}
	for name, target := range links {
		link := c.Path("path", name)
		if current, err := os.Readlink(link); err == nil && current == target {
			continue
		}
		_ = os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}
