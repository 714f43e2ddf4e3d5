package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strings"
	"time"
)

// program is something built from Go sources, pinned by the go.mod and go.sum in a directory beside this file.
type program struct {
	name string
	// binaries maps a file to the package it is built from.
	binaries map[string]string
	// ldflags sets what the program says its version is: a format for the version of `module` in go.mod.
	ldflags func(version string) string
	module  string
	// image, if any, is the name of an image that holds the binary as `entry`, beside it in an archive.
	image string
	entry string
	// chart, if any, is the folder of the module with its Helm chart: copied beside the binary.
	chart string
	// optional is what only some clusters need: built when it is asked for.
	optional bool
	// cold is how long a build without any cache takes on two cores: said in the progress, so that nobody kills it.
	cold string
}

var programs = []program{
	{
		name:     "kube",
		binaries: map[string]string{"kube": "."},
		module:   "k8s.io/kubernetes",
		ldflags:  kubeVersion,
		cold:     "7 min",
	},
	{
		name: "containerd",
		binaries: map[string]string{
			"containerd":              "github.com/containerd/containerd/v2/cmd/containerd",
			"containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			"ctr":                     "github.com/containerd/containerd/v2/cmd/ctr",
		},
		module:  "github.com/containerd/containerd/v2",
		ldflags: func(v string) string { return "-X github.com/containerd/containerd/v2/version.Version=" + v },
		cold:    "1 min",
	},
	{
		name:     "coredns",
		binaries: map[string]string{"coredns": "github.com/coredns/coredns"},
		module:   "github.com/coredns/coredns",
		cold:     "3 min",
	},
	{
		name:     "helm",
		binaries: map[string]string{"helm": "helm.sh/helm/v4/cmd/helm"},
		module:   "helm.sh/helm/v4",
		ldflags:  func(v string) string { return "-X helm.sh/helm/v4/internal/version.version=" + v },
		cold:     "2 min",
	},
	{
		name:     "kwok",
		binaries: map[string]string{"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
		module:   "sigs.k8s.io/kwok",
		optional: true,
		cold:     "1 min",
	},
	{
		// Stores for tests, of other makers than the one the clusters use.
		name:     "gcs",
		binaries: map[string]string{"gcs": "."},
		optional: true,
		cold:     "2 min",
	},
	{
		name:     "minio",
		binaries: map[string]string{"minio": "github.com/minio/minio"},
		module:   "github.com/minio/minio",
		optional: true,
		cold:     "4 min",
	},
	{
		// A queue for Jobs, which runs in the cluster.
		name:     "kueue",
		binaries: map[string]string{"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
		module:   "sigs.k8s.io/kueue",
		image:    "localhost/kueue:1",
		entry:    "manager",
		chart:    "charts/kueue",
		optional: true,
		cold:     "3 min",
	},
	{
		// Of this module: has no pins of its own.
		name:     "pause",
		binaries: map[string]string{"pause": "."},
		image:    pauseImageName,
		entry:    "pause",
		cold:     "10 s",
	},
}

// kubeVersion: without the first three the API server, the kubelet and the version-skew checks take themselves for v0.0.0; the
// last is what user agents in the audit log say.
func kubeVersion(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	const pkg = "-X k8s.io/component-base/version."
	return pkg + "gitVersion=" + version + " " + pkg + "gitMajor=" + parts[0] + " " + pkg + "gitMinor=" + parts[1] +
		" -X k8s.io/client-go/pkg/version.gitVersion=" + version
}

// Programs maps a program's name to the directory of its binaries.
type Programs map[string]string

func (p Programs) binary(program, binary string) string { return filepath.Join(p[program], binary) }

func (p Programs) dirs() []string {
	var dirs []string
	for _, dir := range p {
		dirs = append(dirs, dir)
	}
	sort.Strings(dirs)
	return dirs
}

// which prints the path of a binary, built first if need be: for scripts that want helm and no cluster, or one of the
// programs that no cluster has.
func which(cache Cache, binary string) error {
	programs, err := build(cache, binary)
	if err != nil {
		return err
	}
	for _, dir := range programs.dirs() {
		if path := filepath.Join(dir, binary); exists(path) {
			fmt.Println(path)
			return nil
		}
	}
	return fmt.Errorf("no program %q among %s", binary, strings.Join(programs.dirs(), ", "))
}

// pauseImage is the archive of the image that sandboxes run, and its name.
func (p Programs) pauseImage() string { return filepath.Join(p["pause"], "pause.oci.tar") }

const pauseImageName = "localhost/pause:1"

// sourceDir finds tests/cluster: told by the wrapper script, or at or above the working directory.
func sourceDir() (string, error) {
	if dir := os.Getenv("ASYNCTASK_CLUSTER_SOURCE"); dir != "" {
		return dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "tests", "cluster")} {
			if exists(filepath.Join(candidate, "kube", "go.mod")) {
				return candidate, nil
			}
		}
	}
	return "", fmt.Errorf("cannot find tests/cluster/kube/go.mod at or above the working directory: run tests/cluster/cluster, or set ASYNCTASK_CLUSTER_SOURCE")
}

var requireRule = regexp.MustCompile(`(?m)^(?:require)?\s+(\S+) (v\S+)`)

// requiredVersion reads the version of a module from a go.mod.
func requiredVersion(gomod []byte, module string) (string, error) {
	for _, match := range requireRule.FindAllSubmatch(gomod, -1) {
		if string(match[1]) == module {
			return string(match[2]), nil
		}
	}
	return "", fmt.Errorf("go.mod does not require %s", module)
}

// recipe is what decides a program's bytes: its sources, pins and linker flags.
type recipe struct {
	program
	dir   string
	flags string
	hash  string
}

func (p program) recipe(source string) (recipe, error) {
	r := recipe{program: p, dir: filepath.Join(source, p.name), flags: "-s -w"}
	files, err := filepath.Glob(filepath.Join(r.dir, "*"))
	if err != nil {
		return r, err
	}
	sort.Strings(files)
	sum := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return r, err
		}
		fmt.Fprintf(sum, "%s %d\n", filepath.Base(file), len(content))
		sum.Write(content)
		if filepath.Base(file) == "go.mod" && p.ldflags != nil {
			version, err := requiredVersion(content, p.module)
			if err != nil {
				return r, fmt.Errorf("%s: %w", file, err)
			}
			r.flags += " " + p.ldflags(version)
		}
	}
	fmt.Fprintf(sum, "%s %s\n", runtime.GOARCH, r.flags)
	r.hash = hex.EncodeToString(sum.Sum(nil))[:12]
	return r, nil
}

func (r recipe) output(cache Cache) string { return filepath.Join(cache.bin(), r.name+"-"+r.hash) }

func (r recipe) built(cache Cache) bool {
	for binary := range r.binaries {
		if !exists(filepath.Join(r.output(cache), binary)) {
			return false
		}
	}
	return (r.image == "" || exists(r.archive(cache))) && (r.chart == "" || exists(filepath.Join(r.output(cache), "chart")))
}

// build makes what is missing, and returns where everything is: all that each cluster needs, and the wanted programs.
func build(cache Cache, wanted ...string) (Programs, error) {
	if err := installPackages(); err != nil {
		return nil, err
	}
	source, err := sourceDir()
	if err != nil {
		return nil, err
	}
	found := Programs{}
	var missing []recipe
	for _, p := range programs {
		if p.optional && !slices.Contains(wanted, p.name) {
			continue
		}
		r, err := p.recipe(source)
		if err != nil {
			return nil, err
		}
		found[p.name] = r.output(cache)
		if !r.built(cache) {
			missing = append(missing, r)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	release, err := hold(cache.lock("build"), func() { say("another build is under way: waiting for it") })
	if err != nil {
		return nil, err
	}
	defer release()
	for _, r := range missing {
		if r.built(cache) {
			continue
		}
		if err := r.build(cache); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (r recipe) build(cache Cache) error {
	if err := os.MkdirAll(r.output(cache), 0o755); err != nil {
		return err
	}
	for _, binary := range sortedKeys(r.binaries) {
		// Into a temporary name first: a killed build leaves nothing that looks finished. What one left is swept here.
		final := filepath.Join(r.output(cache), binary)
		stale, _ := filepath.Glob(final + ".tmp-*")
		for _, file := range stale {
			_ = os.Remove(file)
		}
		tmp := fmt.Sprintf("%s.tmp-%d", final, os.Getpid())
		defer os.Remove(tmp)
		// The linker would drop what debuggers read; the compiler does not even write it.
		cmd := exec.Command("nice", "-n", "5", "go", "build", "-C", r.dir, "-mod=readonly", "-trimpath", "-buildvcs=false",
			"-gcflags", "all=-dwarf=false", "-ldflags", r.flags, "-o", tmp, r.binaries[binary])
		// Compilers live for seconds: collecting their garbage costs a fifth of the build, letting it lie costs memory.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS=linux", "GOARCH="+runtime.GOARCH,
			"GOGC=800", "GOMEMLIMIT=3GiB")
		err := watch(fmt.Sprintf("build %s (a cold cache and two cores: about %s)", binary, r.cold), cmd)
		if err != nil {
			return err
		}
		if err := os.Rename(tmp, final); err != nil {
			return err
		}
	}
	if r.chart != "" {
		if err := r.copyChart(filepath.Join(r.output(cache), "chart")); err != nil {
			return err
		}
	}
	if r.image != "" {
		return writeImage(r.archive(cache), r.image, filepath.Join(r.output(cache), r.name), r.entry)
	}
	return nil
}

// archive is where the program's image is.
func (r recipe) archive(cache Cache) string { return filepath.Join(r.output(cache), r.name+".oci.tar") }

// copyChart copies the chart out of the module's sources, whole or not at all.
func (r recipe) copyChart(final string) error {
	module, err := run("go", "list", "-C", r.dir, "-mod=readonly", "-m", "-f", "{{.Dir}}", r.module)
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.tmp-%d", final, os.Getpid())
	defer os.RemoveAll(tmp)
	if err := os.CopyFS(tmp, os.DirFS(filepath.Join(strings.TrimSpace(module), r.chart))); err != nil {
		return err
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(tmp, final)
}

// watch runs a long command and says every few seconds that it is still at it.
func watch(what string, cmd *exec.Cmd) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	began := time.Now()
	say("%s …", what)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(12 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", what, err, output.String())
			}
			say("%s: done after %s", what, since(began))
			return nil
		case <-tick.C:
			say("%s … %s", what, since(began))
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
