// Command cluster builds and boots a complete real Kubernetes on one Linux machine, without Docker: etcd, API server, controller
// manager, scheduler, kubelet with containerd, kube-proxy and CoreDNS, all from pinned Go modules.
//
// Run it by the script beside this file, `tests/cluster/cluster VERB`, which compiles it into the cache first. README.md tells
// how it works; `cluster help` lists the verbs.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const usage = `usage: cluster VERB [--name NAME] …       (NAME is "dev" unless given)

  build [kwok|kueue|gcs|minio]…   install missing packages, build missing binaries into the cache
  which PROGRAM                   print where a built binary is: helm, kube, coredns, ctr, kwok, kueue, gcs, minio
  up [--slot N]                   boot a cluster, or complete one; waits until it serves
  down [--all]                    stop it and remove all it made
  env [--path DIR]…               print exports for PATH, KUBECONFIG and more: eval "$(cluster env)"
  load FILE.oci.tar…              import OCI archives into its containerd
  status                          list its components; fails if one does not run
  logs [-f] COMPONENT|audit       print a component's log, or the API server's audit log
  restart COMPONENT               stop, start, wait until it serves
  kill COMPONENT [-9|-TERM|-STOP|-CONT]
  fakes --nodes N                 add fake nodes; pods of Jobs on them succeed without a kubelet (kwok, built on first use)
  exec -- COMMAND…                run a command in the cluster's network (nft, ss, tcpdump, curl …)

Everything is kept in $ASYNCTASK_CACHE (default: ~/.cache/asynctask-operator).
`

func main() {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") || os.Args[1] == "help" {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := dispatch(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "cluster %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

type options struct {
	name   string
	slot   slotFlag
	all    bool
	follow bool
	nodes  int
	paths  listFlag
}

// listFlag is a flag that may be repeated.
type listFlag []string

func (f *listFlag) String() string     { return strings.Join(*f, ":") }
func (f *listFlag) Set(v string) error { *f = append(*f, v); return nil }

// parse reads the flags a verb takes; the rest is left.
func parse(verb string, args []string) (options, []string, error) {
	var o options
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.name, "name", "dev", "")
	switch verb {
	case "up":
		flags.Var(&o.slot, "slot", "")
	case "down":
		flags.BoolVar(&o.all, "all", false, "")
	case "env":
		flags.Var(&o.paths, "path", "")
	case "fakes":
		flags.IntVar(&o.nodes, "nodes", 1, "")
	case "logs":
		flags.BoolVar(&o.follow, "f", false, "")
	}
	if err := flags.Parse(args); err != nil {
		return o, nil, fmt.Errorf("%w\n\n%s", err, usage)
	}
	return o, flags.Args(), nil
}

func dispatch(verb string, args []string) error {
	o, rest, err := parse(verb, args)
	if err != nil {
		return err
	}
	cache, err := defaultCache()
	if err != nil {
		return err
	}
	switch verb {
	case "build":
		_, err := build(cache, rest...)
		return err
	case "which":
		return withOne(rest, func(program string) error { return which(cache, program) })
	case "up":
		return up(cache, o.name, o.slot.value)
	case "down":
		if o.all {
			return downAll(cache)
		}
		return down(cache, o.name)
	}
	// The others work on a cluster that is there.
	on := map[string]func(Cluster) error{
		"env":    func(c Cluster) error { return printEnv(c, o.paths) },
		"load":   func(c Cluster) error { return load(c, rest) },
		"status": status,
		"fakes":  func(c Cluster) error { return fakes(c, o.nodes) },
		"exec":   func(c Cluster) error { return execute(c, rest) },
		"kill":   func(c Cluster) error { return kill(c, rest) },
		"logs": func(c Cluster) error {
			return withOne(rest, func(name string) error { return logs(c, o.follow, name) })
		},
		"restart": func(c Cluster) error {
			return withOne(rest, func(name string) error { return restart(c, name) })
		},
	}[verb]
	if on == nil {
		return fmt.Errorf("no such verb\n\n%s", usage)
	}
	c, err := cache.load(o.name)
	if err != nil {
		return err
	}
	return on(c)
}

// withOne insists on exactly one argument, a component.
func withOne(args []string, then func(string) error) error {
	if len(args) != 1 {
		return fmt.Errorf("name one component\n\n%s", usage)
	}
	return then(args[0])
}

var saying sync.Mutex

// say reports progress on standard error: standard output is for what a caller evaluates.
func say(format string, args ...any) {
	saying.Lock()
	defer saying.Unlock()
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func since(began time.Time) string { return fmt.Sprintf("%.1f s", time.Since(began).Seconds()) }
