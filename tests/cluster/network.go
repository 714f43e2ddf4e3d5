package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Each cluster lives in a network namespace of its own, joined to the host by one veth pair:
//
//	host                                    cluster's namespace
//	asynctaskS 10.245.S.1/30 ───────────── eth0 10.245.S.2/30   API server :6443, kubelet, node ports
//	  route 10.244.S.0/24, 10.96.S.0/24 ─►  cni0 10.244.S.1/24 ── pods
//	                                        kube-proxy's nftables: 10.96.S.0/24 → pods
//
// So nothing of two clusters can collide (ports, bridge, kube-proxy's tables, loopback listeners), the host reaches pod and
// cluster IPs of every cluster by a route, and all of it goes away with the namespace.

// inNetwork prefixes a command so that it runs in the cluster's network. nsenter rather than `ip netns exec`: that would mount
// a fresh /sys over the cgroups.
func (c Cluster) inNetwork(argv ...string) []string {
	return append([]string{lookup("nsenter"), "--net=" + c.netns(), "--"}, argv...)
}

func linkExists(slot Slot) bool {
	return exists(filepath.Join("/sys/class/net", slot.Link()))
}

// networkUp tells whether the namespace is mounted, set up and joined.
func (c Cluster) networkUp() bool {
	mounts, err := mountsBelow(c.netns())
	return err == nil && len(mounts) > 0 && linkExists(c.Slot)
}

func (c Cluster) makeNetwork() error {
	if !c.networkUp() {
		if err := c.newNetwork(); err != nil {
			return err
		}
	}
	// Always: a fault test may have set an end of the link down, and the kernel drops that end's routes with it.
	slot := c.Slot
	return c.configure([][]string{
		{"ip", "address", "replace", slot.HostIP() + "/30", "dev", slot.Link()},
		{"ip", "link", "set", slot.Link(), "up"},
		{"ip", "route", "replace", slot.PodCIDR(), "via", slot.NodeIP(), "dev", slot.Link()},
		{"ip", "route", "replace", slot.ServiceCIDR(), "via", slot.NodeIP(), "dev", slot.Link()},
		c.inNetwork("ip", "link", "set", "eth0", "up"),
		c.inNetwork("ip", "route", "replace", "default", "via", slot.HostIP(), "dev", "eth0"),
	})
}

func (c Cluster) newNetwork() error {
	// Half of one may be left of an earlier try.
	if err := c.removeNetwork(); err != nil {
		return err
	}
	if err := os.WriteFile(c.netns(), nil, 0o600); err != nil {
		return err
	}
	if _, err := run("unshare", "--net="+c.netns(), "true"); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	slot := c.Slot
	inside := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", "eth0", "type", "veth", "peer", "name", slot.Link()},
		{"ip", "address", "add", slot.NodeIP() + "/30", "dev", "eth0"},
		// The bridge is made here, not by the CNI plugin at the first pod: its address then exists from the start, and it has a
		// link address of its own. A bridge without one takes the lowest of its ports: each pod that comes or goes may change it, and
		// the pods that had asked for it send to nobody until they ask again, up to a minute later.
		{"ip", "link", "add", "cni0", "address", bridgeMAC, "type", "bridge"},
		{"ip", "address", "add", slot.BridgeIP() + "/24", "dev", "cni0"},
		{"ip", "link", "set", "cni0", "up"},
		{"sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"},
		// Last, so that a link on the host means that all of this is done: hand its end to where this process is.
		{"ip", "link", "set", slot.Link(), "netns", strconv.Itoa(os.Getpid())},
	}
	for i, argv := range inside {
		inside[i] = c.inNetwork(argv...)
	}
	return c.configure(inside)
}

func (c Cluster) configure(commands [][]string) error {
	for _, argv := range commands {
		if _, err := run(argv...); err != nil {
			return fmt.Errorf("network of cluster %s (slot %d): %w; if that address range is taken on this machine, choose another --slot",
				c.Name, c.Slot, err)
		}
	}
	return nil
}

// bridgeMAC is the link address of the pods' gateway.
const bridgeMAC = "0a:58:0a:f4:00:01"

// removeNetwork removes the link (the routes go with it) and the namespace (bridge and nftables go with it).
func (c Cluster) removeNetwork() error {
	if c.Slot >= 0 && linkExists(c.Slot) {
		if _, err := run("ip", "link", "delete", c.Slot.Link()); err != nil {
			return err
		}
	}
	if err := unmountBelow(c.netns()); err != nil {
		return err
	}
	err := os.Remove(c.netns())
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}
