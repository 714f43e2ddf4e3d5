package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// networkUp tells whether the namespace is mounted and joined.
func (c Cluster) networkUp() bool {
	mounts, err := mountsBelow(c.netns())
	return err == nil && len(mounts) > 0 && linkExists(c.Slot)
}

func (c Cluster) makeNetwork() error {
	if c.networkUp() {
		return nil
	}
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
	link := slot.Link()
	host := [][]string{
		{"ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", c.netns()},
		{"ip", "address", "add", slot.HostIP() + "/30", "dev", link},
		{"ip", "link", "set", link, "up"},
	}
	inside := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "address", "add", slot.NodeIP() + "/30", "dev", "eth0"},
		{"ip", "link", "set", "eth0", "up"},
		{"ip", "route", "add", "default", "via", slot.HostIP()},
		// The bridge is made here, not by the CNI plugin at the first pod: its address then exists from the start.
		{"ip", "link", "add", "cni0", "type", "bridge"},
		{"ip", "address", "add", slot.BridgeIP() + "/24", "dev", "cni0"},
		{"ip", "link", "set", "cni0", "up"},
		{"sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"},
	}
	routes := [][]string{
		{"ip", "route", "add", slot.PodCIDR(), "via", slot.NodeIP(), "dev", link},
		{"ip", "route", "add", slot.ServiceCIDR(), "via", slot.NodeIP(), "dev", link},
	}
	for _, argv := range inside {
		host = append(host, c.inNetwork(argv...))
	}
	for _, argv := range append(host, routes...) {
		if _, err := run(argv...); err != nil {
			return fmt.Errorf("network of cluster %s (slot %d): %w; if that address range is taken on this machine, choose another --slot",
				c.Name, slot, err)
		}
	}
	return nil
}

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
