package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// printEnv prints what a shell evaluates to work with the cluster.
func printEnv(c Cluster, prepend []string) error {
	dirs := []string{}
	for _, dir := range prepend {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		dirs = append(dirs, quote(abs))
	}
	dirs = append(dirs, quote(c.Path("path")))
	fmt.Printf("export PATH=%s:\"$PATH\"\n", strings.Join(dirs, ":"))
	for _, pair := range [][2]string{
		{"KUBECONFIG", c.kubeconfig()},
		// ctr reads these two.
		{"CONTAINERD_ADDRESS", c.containerdSocket()},
		{"CONTAINERD_NAMESPACE", "k8s.io"},
		// For tests: the audit log, and the address under which pods reach a server on the host.
		{"ASYNCTASK_AUDIT_LOG", c.Path("audit.log")},
		{"ASYNCTASK_HOST_IP", c.Slot.HostIP()},
	} {
		fmt.Printf("export %s=%s\n", pair[0], quote(pair[1]))
	}
	return nil
}

// quote makes a shell word of any text.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// status prints each component's process; it is an error if one is not running.
func status(c Cluster) error {
	fmt.Printf("cluster %s, slot %d, API server %s, state in %s\n", c.Name, c.Slot, c.Slot.APIServer(), c.Path())
	var down []string
	for _, comp := range c.components() {
		id, running := c.process(comp.name)
		state := "running"
		switch {
		case running && id.stopped():
			state = "held by SIGSTOP"
		case running:
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			if err := comp.ready(ctx); err != nil {
				state = "running, not ready: " + err.Error()
			}
			cancel()
		default:
			state = "not running"
			down = append(down, comp.name)
		}
		fmt.Printf("  %-24s %8s  %s\n", comp.name, pidText(id), state)
	}
	if len(down) > 0 {
		return fmt.Errorf("not running: %s; start with `restart COMPONENT` or `up --name %s`", strings.Join(down, ", "), c.Name)
	}
	return nil
}

func pidText(id identity) string {
	if id.PID == 0 {
		return "-"
	}
	return strconv.Itoa(id.PID)
}

// logs becomes cat or tail -f of a component's log.
func logs(c Cluster, follow bool, name string) error {
	path := c.Path("audit.log")
	if name != "audit" {
		comp, err := c.component(name)
		if err != nil {
			return fmt.Errorf("%w; or `audit`", err)
		}
		path = c.logFile(comp.name)
	}
	argv := []string{"cat", path}
	if follow {
		argv = []string{"tail", "-n", "20", "-F", path}
	}
	return syscall.Exec(lookup(argv[0]), argv, os.Environ())
}

// restart stops a component if it runs, starts it and waits until it serves.
func restart(c Cluster, name string) error {
	comp, err := c.component(name)
	if err != nil {
		return err
	}
	release, err := hold(c.cache.lock(c.Name), func() { say("another command works on cluster %s: waiting for it", c.Name) })
	if err != nil {
		return err
	}
	defer release()
	if err := c.stop(comp.name, 5*time.Second); err != nil {
		return err
	}
	began := time.Now()
	if err := c.start(comp); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()
	for {
		err := comp.ready(ctx)
		if err == nil {
			break
		}
		// Only this one: in a fault test others may be down on purpose.
		if _, running := c.process(comp.name); !running {
			return fmt.Errorf("%s has died; the end of %s:\n%s", comp.name, c.logFile(comp.name), c.tail(comp.name, 15))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not become ready: %w", comp.name, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	say("%s ready after %s", comp.name, since(began))
	return nil
}

var signals = map[string]syscall.Signal{
	"-9": syscall.SIGKILL, "-KILL": syscall.SIGKILL, "-TERM": syscall.SIGTERM, "-STOP": syscall.SIGSTOP, "-CONT": syscall.SIGCONT,
}

// kill signals a component and returns when the signal has done its work. A killed component stays down until `restart`.
func kill(c Cluster, args []string) error {
	signal, name := syscall.SIGTERM, ""
	for _, arg := range args {
		if s, ok := signals[arg]; ok {
			signal = s
		} else if name == "" && !strings.HasPrefix(arg, "-") {
			name = arg
		} else {
			return fmt.Errorf("kill: %q is neither a component nor one of %s", arg, strings.Join(sortedKeys(signals), " "))
		}
	}
	comp, err := c.component(name)
	if err != nil {
		return err
	}
	id, running := c.process(comp.name)
	if !running {
		return fmt.Errorf("%s does not run; start it with `restart %s`", comp.name, comp.name)
	}
	if err := syscall.Kill(id.PID, signal); err != nil {
		return fmt.Errorf("signal %s (pid %d): %w", comp.name, id.PID, err)
	}
	done := map[syscall.Signal]func() bool{
		syscall.SIGSTOP: id.stopped,
		syscall.SIGCONT: func() bool { return !id.stopped() },
	}[signal]
	if done == nil {
		done = func() bool { return !id.alive() }
	}
	if !waitUntil(30*time.Second, done) {
		return fmt.Errorf("%s (pid %d) does not heed %v within 30 s; try -9", comp.name, id.PID, signal)
	}
	return nil
}

// execute becomes a command that runs in the cluster's network.
func execute(c Cluster, argv []string) error {
	if len(argv) == 0 {
		return errors.New("exec what? name a command after --")
	}
	if !c.networkUp() {
		return fmt.Errorf("the network of cluster %s is not there; `up --name %s`", c.Name, c.Name)
	}
	full := c.inNetwork(argv...)
	return syscall.Exec(full[0], full, os.Environ())
}
