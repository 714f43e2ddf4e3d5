package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// identity names one process for good. A pid alone is reused, and after a restart of the machine it may be anybody's.
type identity struct {
	PID int `json:"pid"`
	// Start is the process's start, in clock ticks since boot (field 22 of /proc/PID/stat).
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
}

func identify(pid int) (identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}, err
	}
	start, _, err := parseStat(string(stat))
	if err != nil {
		return identity{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	boot, err := bootID()
	return identity{PID: pid, Start: start, Boot: boot}, err
}

// alive tells whether exactly this process still runs. A zombie does not.
func (id identity) alive() bool {
	if boot, err := bootID(); err != nil || boot != id.Boot {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id.PID))
	if err != nil {
		return false
	}
	start, state, err := parseStat(string(stat))
	return err == nil && start == id.Start && state != "Z" && state != "X"
}

// stopped tells whether the process is held by SIGSTOP.
func (id identity) stopped() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id.PID))
	if err != nil {
		return false
	}
	_, state, err := parseStat(string(stat))
	return err == nil && state == "T"
}

// parseStat reads start time and state. The command name before them may hold spaces and brackets: count from the last bracket.
func parseStat(stat string) (start uint64, state string, err error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, "", errors.New("no command name")
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0, "", fmt.Errorf("%d fields after the command name, want 20 or more", len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0], err
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

func (c Cluster) pidFile(component string) string { return c.Path("pids", component) }
func (c Cluster) logFile(component string) string { return c.Path("logs", component+".log") }

// process returns the recorded process of a component; ok is false when none is recorded or it no longer runs.
func (c Cluster) process(component string) (id identity, ok bool) {
	data, err := os.ReadFile(c.pidFile(component))
	if err != nil || json.Unmarshal(data, &id) != nil {
		return identity{}, false
	}
	return id, id.alive()
}

// start runs a component in the cluster's network and cgroup, unless it runs already. It outlives this tool.
func (c Cluster) start(comp component) error {
	if id, running := c.process(comp.name); running {
		// A fault test may have left it held.
		return syscall.Kill(id.PID, syscall.SIGCONT)
	}
	if err := os.MkdirAll(c.Path("logs"), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(c.logFile(comp.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// The shell and nsenter replace themselves: the pid we record is the component's own.
	argv := append([]string{"-c", `echo $$ > "$0" && exec "$@"`, systemCgroup(c.Name).procs()}, c.inNetwork(comp.args...)...)
	cmd := exec.Command("/bin/sh", argv...)
	cmd.Env = c.environ()
	cmd.Dir = c.Path()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", comp.name, err)
	}
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("start %s: %w", comp.name, err)
	}
	// Bury it if it dies while we are here.
	go func() { _ = cmd.Wait() }()
	return writeJSON(c.pidFile(comp.name), id)
}

// environ is the environment of components: nothing of the caller's but its home, and the cluster's binaries first on PATH
// (containerd finds its shim there).
func (c Cluster) environ() []string {
	return []string{
		"PATH=" + strings.Join(append(c.Programs.dirs(), systemPath...), ":"),
		"HOME=" + c.Path(),
	}
}

// systemPath is searched besides PATH: a user's PATH often lacks the sbin directories.
var systemPath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// stop ends a component: SIGTERM, and SIGKILL once patience has run out.
func (c Cluster) stop(component string, patience time.Duration) error {
	id, running := c.process(component)
	if running {
		// A process held by SIGSTOP does not see SIGTERM.
		_ = syscall.Kill(id.PID, syscall.SIGTERM)
		_ = syscall.Kill(id.PID, syscall.SIGCONT)
		if !waitUntil(patience, func() bool { return !id.alive() }) {
			_ = syscall.Kill(id.PID, syscall.SIGKILL)
			if !waitUntil(5*time.Second, func() bool { return !id.alive() }) {
				return fmt.Errorf("%s (pid %d) survives SIGKILL: it hangs in the kernel; see /proc/%d/stack", component, id.PID, id.PID)
			}
		}
	}
	err := os.Remove(c.pidFile(component))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// waitUntil polls until done or the time is over.
func waitUntil(limit time.Duration, done func() bool) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// tail returns the last lines of a component's log.
func (c Cluster) tail(component string, lines int) string {
	data, err := os.ReadFile(c.logFile(component))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// run executes a command; its output becomes part of the error.
func run(argv ...string) (string, error) {
	out, err := exec.Command(lookup(argv[0]), argv[1:]...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, text)
	}
	return text, nil
}

// lookup finds a program on PATH or in the usual system directories. It returns the bare name if it is in none.
func lookup(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range systemPath {
		if path := filepath.Join(dir, name); exists(path) {
			return path
		}
	}
	return name
}
