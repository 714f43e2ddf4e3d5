package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
)

// maxSlot is bounded by the third octet the slot is written into; 64 clusters are more than one machine boots.
const maxSlot = 63

// socketPathLimit is what the kernel allows in sockaddr_un, less the terminating zero.
const socketPathLimit = 107

// Slot tells clusters on one machine apart: every address of a cluster carries the slot in its third octet.
type Slot int

// HostIP is the host's end of the link: what pods use to reach a server on the host.
func (s Slot) HostIP() string { return fmt.Sprintf("10.245.%d.1", s) }

// NodeIP is the cluster's end of the link: API server, kubelet and node ports listen here.
func (s Slot) NodeIP() string { return fmt.Sprintf("10.245.%d.2", s) }

// PodCIDR holds the pods of the single node.
func (s Slot) PodCIDR() string { return fmt.Sprintf("10.244.%d.0/24", s) }

// BridgeIP is the pods' gateway.
func (s Slot) BridgeIP() string { return fmt.Sprintf("10.244.%d.1", s) }

// ServiceCIDR holds the cluster IPs.
func (s Slot) ServiceCIDR() string { return fmt.Sprintf("10.96.%d.0/24", s) }

// APIServiceIP is the cluster IP of the service `kubernetes`: the first of the range, chosen by the API server itself.
func (s Slot) APIServiceIP() string { return fmt.Sprintf("10.96.%d.1", s) }

// DNSServiceIP is the cluster IP of the service `kube-dns`.
func (s Slot) DNSServiceIP() string { return fmt.Sprintf("10.96.%d.10", s) }

// Link is the name of the veth end that stays on the host.
func (s Slot) Link() string { return fmt.Sprintf("%s%d", linkPrefix, s) }

const linkPrefix = "asynctask"

// APIServer is the URL of the API server, as seen from the host and from every pod.
func (s Slot) APIServer() string { return "https://" + s.NodeIP() + ":6443" }

func (s Slot) valid() error {
	if s < 0 || s > maxSlot {
		return fmt.Errorf("slot %d is out of range: choose 0 to %d", s, maxSlot)
	}
	return nil
}

// Cluster is what is recorded of a cluster in its state directory, so that it can be stopped or inspected without the sources
// it was built from.
type Cluster struct {
	Name string `json:"name"`
	Slot Slot   `json:"slot"`
	// Programs are the directories the binaries were taken from when it was booted.
	Programs Programs `json:"programs"`
	// Boot is the machine's boot in which it was started: none of its processes and mounts survives another.
	Boot  string `json:"boot"`
	cache Cache
}

// Cache is the directory that outlives a checkout: binaries, locks, and the clusters' throw-away state.
type Cache string

func defaultCache() (Cache, error) {
	if dir := os.Getenv("ASYNCTASK_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		return Cache(abs), err
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w; set ASYNCTASK_CACHE to one", err)
	}
	return Cache(filepath.Join(base, "asynctask-operator")), nil
}

func (c Cache) bin() string                { return filepath.Join(string(c), "bin") }
func (c Cache) lock(name string) string    { return filepath.Join(string(c), "locks", name) }
func (c Cache) cluster(name string) string { return filepath.Join(string(c), "clusters", name) }

// Path joins below the cluster's state directory.
func (c Cluster) Path(elem ...string) string {
	return filepath.Join(append([]string{c.cache.cluster(c.Name)}, elem...)...)
}

func (c Cluster) netns() string      { return c.Path("netns") }
func (c Cluster) kubeconfig() string { return c.Path("kubeconfig") }

// Kept short: together with a long cache directory it must fit into a socket path.
func (c Cluster) containerdSocket() string { return c.Path("containerd", "c.sock") }

// The longest socket below the state directory is one the kubelet makes.
func (c Cluster) longestSocket() string {
	return c.Path("kubelet", "device-plugins", "kubelet.sock")
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$`)

func checkName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("cluster name %q: use up to 30 lower-case letters, digits and dashes (it becomes the node's name)", name)
	}
	return nil
}

// errNoCluster says that nothing is recorded under a name.
var errNoCluster = errors.New("no such cluster")

func (c Cache) load(name string) (Cluster, error) {
	if err := checkName(name); err != nil {
		return Cluster{}, err
	}
	file := filepath.Join(c.cluster(name), "cluster.json")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Cluster{}, fmt.Errorf("%w: %q; boot it with `up --name %s`", errNoCluster, name, name)
	}
	if err != nil {
		return Cluster{}, err
	}
	cluster := Cluster{cache: c}
	if err := json.Unmarshal(data, &cluster); err != nil {
		return Cluster{}, fmt.Errorf("%s: %w; remove what is left with `down --name %s`", file, err, name)
	}
	return cluster, nil
}

func (c Cluster) save() error {
	return writeJSON(c.Path("cluster.json"), c)
}

// all lists the recorded clusters, by name. A directory without a readable record is listed too, so that `down --all` reaches it.
func (c Cache) all() ([]Cluster, error) {
	entries, err := os.ReadDir(filepath.Join(string(c), "clusters"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var clusters []Cluster
	for _, entry := range entries {
		if checkName(entry.Name()) != nil {
			continue
		}
		cluster, err := c.load(entry.Name())
		if err != nil {
			cluster = Cluster{Name: entry.Name(), Slot: -1, cache: c}
		}
		clusters = append(clusters, cluster)
	}
	sort.Slice(clusters, func(i, j int) bool { return clusters[i].Name < clusters[j].Name })
	return clusters, nil
}

// chooseSlot gives a new cluster its slot: the wanted one if it is free, else the lowest free one. `occupied` tells of slots
// that something outside this cache uses.
func chooseSlot(wanted *Slot, clusters []Cluster, occupied func(Slot) bool) (Slot, error) {
	owner := map[Slot]string{}
	for _, cluster := range clusters {
		owner[cluster.Slot] = cluster.Name
	}
	if wanted != nil {
		if err := wanted.valid(); err != nil {
			return 0, err
		}
		if name, taken := owner[*wanted]; taken {
			return 0, fmt.Errorf("slot %d belongs to cluster %q: choose another --slot, or `down --name %s`", *wanted, name, name)
		}
		if occupied(*wanted) {
			return 0, fmt.Errorf("slot %d is in use outside this cache (link %s exists): choose another --slot, or remove it with `ip link delete %s`",
				*wanted, wanted.Link(), wanted.Link())
		}
		return *wanted, nil
	}
	for slot := Slot(0); slot <= maxSlot; slot++ {
		if _, taken := owner[slot]; !taken && !occupied(slot) {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("all %d slots are taken: stop a cluster with `down --name NAME`", maxSlot+1)
}

// slotFlag is a --slot that may be left out.
type slotFlag struct{ value *Slot }

func (f *slotFlag) String() string {
	if f.value == nil {
		return "lowest free"
	}
	return strconv.Itoa(int(*f.value))
}

func (f *slotFlag) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("slot %q is not a number", text)
	}
	slot := Slot(n)
	f.value = &slot
	return slot.valid()
}
