package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ollama/ollama/envconfig"

	"foreman/e2e/lab"
)

// The files of testdata/deploy are checked in three ways: by the code of those who read
// them, by what must agree within a file, and by a foreman that runs with what the file
// sets. Each check is tried on mistakes, which it must refuse.

// An edit is a mistake that somebody could make in a file, and what is said of it.
type edit struct{ name, old, new, want string }

// wantRefused has each mistake refused by check, which is given an edited copy of file.
func wantRefused(t *testing.T, file string, edits []edit, check func(file string) error) {
	t.Helper()
	for _, e := range edits {
		if err := check(edited(t, file, e.old, e.new)); err == nil || !strings.Contains(err.Error(), e.want) {
			t.Errorf("%s: got %v; want an error with %q", e.name, err, e.want)
		}
	}
}

// edited returns a copy of file in which each old text, which must be there once, is
// replaced by the new text that follows it.
func edited(t *testing.T, file string, oldnew ...string) string {
	t.Helper()
	original, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content := string(original)
	for pair := range slices.Chunk(oldnew, 2) {
		if n := strings.Count(content, pair[0]); n != 1 {
			t.Fatalf("%s has %q %d times; want it once", file, pair[0], n)
		}
		content = strings.Replace(content, pair[0], pair[1], 1)
	}
	replaced := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(replaced, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return replaced
}

// buildManifests builds the program manifests, once, beside foreman.
var buildManifests = sync.OnceValues(func() (binary string, err error) {
	binary = filepath.Join(filepath.Dir(foremanBinary), "manifests")
	out, err := exec.Command("go", "-C", "manifests", "build", "-ldflags=-s -w", "-o", binary).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build manifests: %w\n%s", err, out)
	}
	return binary, nil
})

// manifests returns a function that has a file of this kind checked, and puts into made
// what its reader makes of it.
func manifests(t *testing.T, kind string) func(file string, made any) error {
	t.Helper()
	binary, err := buildManifests()
	if err != nil {
		t.Fatal(err)
	}
	return func(file string, made any) error {
		out, err := exec.CommandContext(t.Context(), binary, kind, file).Output()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			return errors.New(string(exit.Stderr))
		}
		if err != nil {
			return err
		}
		return json.Unmarshal(out, made)
	}
}

// environment is what a file sets.
type environment map[string]string

// list returns the environment as os/exec takes it.
func (e environment) list() (list []string) {
	for _, name := range slices.Sorted(maps.Keys(e)) {
		list = append(list, name+"="+e[name])
	}
	return list
}

// with returns a copy in which the variables have these values.
func (e environment) with(variables environment) environment {
	e = maps.Clone(e)
	maps.Copy(e, variables)
	return e
}

// start starts a foreman with the environment, but in front of the tests' Ollama and on a
// free port.
func (e environment) start(t *testing.T) *lab.Foreman {
	t.Helper()
	foreman := e.startBefore(t, ollama.URL)
	eventually(t, func() error { return wantStatus(foreman.URL+"/readyz", http.StatusOK) })
	return foreman
}

// startBefore is start in front of another target, that may not be ready.
func (e environment) startBefore(t *testing.T, target string) *lab.Foreman {
	t.Helper()
	e = e.with(environment{"FOREMAN_ADDR": "127.0.0.1:0", "FOREMAN_OLLAMA_URL": target, "GORACE": "atexit_sleep_ms=0"})
	foreman, err := lab.StartForeman(t.Context(), foremanBinary, t.TempDir(), e.list()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := foreman.Stop(); err != nil {
			t.Errorf("foreman ended with %v; want a clean end", err)
		}
		if t.Failed() {
			t.Logf("foreman's log:\n%s", foreman.Log())
		}
	})
	if strings.Contains(foreman.Log(), "variable unknown to foreman") {
		t.Error("the file sets a variable that is unknown to foreman")
	}
	return foreman
}

// refusedStart starts a foreman that must refuse to do so, with exit status 2, and
// returns what it says.
func (e environment) refusedStart(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // if it does not refuse
	defer cancel()
	cmd := exec.CommandContext(ctx, foremanBinary)
	cmd.Env = e.with(environment{"FOREMAN_ADDR": "127.0.0.1:0", "GORACE": "atexit_sleep_ms=0"}).list()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("foreman: got %v\n%s; want exit status 2", err, out)
	}
	return string(out)
}

// inForce returns the values that foreman takes from the environment. It fails the test
// where foreman does not know a variable, or cannot use its value.
func (e environment) inForce(t *testing.T) environment {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), foremanBinary, "-h")
	cmd.Env = e.with(environment{"GORACE": "atexit_sleep_ms=0"}).list()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("foreman -h: %v\n%s", err, out)
	}
	if bad := regexp.MustCompile(`(?s)\n(Not usable|Unknown to foreman).*`).Find(out); bad != nil {
		t.Errorf("the file's environment:%s", bad)
	}
	values := environment{}
	for _, row := range regexp.MustCompile(`(?m)^(FOREMAN_\w+) +(\S+)`).FindAllSubmatch(out, -1) {
		values[string(row[1])] = string(row[2])
	}
	return values
}

// port returns the port on which foreman listens.
func (e environment) port(t *testing.T) string {
	t.Helper()
	addr := e.inForce(t)["FOREMAN_ADDR"]
	return addr[strings.LastIndexByte(addr, ':')+1:]
}

// wantHost fails the test unless foreman asks the host of this name, at Ollama's port.
func (e environment) wantHost(t *testing.T, name string) {
	t.Helper()
	t.Setenv("OLLAMA_HOST", "")
	host, err := url.Parse(e["FOREMAN_OLLAMA_URL"])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := host.Host, name+":"+envconfig.Host().Port(); host.Scheme != "http" || got != want {
		t.Errorf("FOREMAN_OLLAMA_URL=%s; want http and %s", host, want)
	}
}

// wantDrains fails the test unless grace is enough for foreman to drain, to cut what
// still runs and to end.
func (e environment) wantDrains(t *testing.T, grace time.Duration) {
	t.Helper()
	drain, err := time.ParseDuration(e.inForce(t)["FOREMAN_DRAIN_TIMEOUT"])
	if err != nil {
		t.Fatal(err)
	}
	if least := drain + 5*time.Second; grace < least {
		t.Errorf("foreman is killed after %v; want at least %v, for it drains for %v", grace, least, drain)
	}
}

const unitFile = "../deploy/foreman.service"

// TestSystemd has systemd read the unit, and looks at what must agree between the unit
// and foreman.
func TestSystemd(t *testing.T) {
	t.Parallel()
	analyze := need(t, "the test of the systemd unit needs systemd-analyze (Debian: apt-get install systemd)", "systemd-analyze")
	const installed = "ExecStart=/usr/local/bin/foreman\n"
	built := fmt.Sprintf("ExecStart=%s\n", foremanBinary)
	systemd := func(args ...string) error {
		out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("systemd-analyze: %w\n%s", err, out)
		}
		if args[0] == "verify" && len(out) > 0 {
			return fmt.Errorf("systemd-analyze: %s", out)
		}
		return nil
	}
	verify := func(file string) error { return systemd("verify", "--man=no", "--recursive-errors=no", file) }
	// The exposure in tenths, from 0 to 100. Most of it is what foreman is for: the network.
	secure := func(file string) error { return systemd("security", "--offline=true", "--threshold=12", file) }
	unit := edited(t, unitFile, installed, built)

	t.Run("verify", func(t *testing.T) {
		const load, variable = "#LoadCredential=", "#Environment=FOREMAN_TOKENS_FILE="
		for name, file := range map[string]string{
			"as it is":              unit,
			"with a file of tokens": edited(t, unit, load, load[1:], variable, variable[1:]),
		} {
			if err := verify(file); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		wantRefused(t, unit, []edit{
			{"misspelt directive", "ProtectClock=", "ProtectClok=", "Unknown key"},
			{"wrong section", "[Install]", "[Instal]", "Unknown section"},
			{"no truth value", "ProtectHostname=yes", "ProtectHostname=maybe", "Failed to parse boolean value"},
			{"no time", "TimeoutStopSec=40", "TimeoutStopSec=forty", "Failed to parse time value"},
			{"no address family", "AF_INET6", "AF_INET7", "AF_INET7"},
			{"no set of system calls", "@system-service", "@system-services", "@system-services"},
			{"no program", built, "ExecStart=/absent/foreman\n", "/absent/foreman"},
		}, verify)
	})

	t.Run("security", func(t *testing.T) {
		if err := secure(unit); err != nil {
			t.Error(err)
		}
		wantRefused(t, unit, []edit{
			{"root", "DynamicUser=yes", "DynamicUser=no", "exposure level"},
			{"capabilities", "CapabilityBoundingSet=\n", "", "exposure level"},
			{"any system call", "SystemCallFilter=@system-service\nSystemCallFilter=~@privileged\n", "", "exposure level"},
			{"any address family", "RestrictAddressFamilies=", "#", "exposure level"},
		}, secure)
	})

	t.Run("agreement", func(t *testing.T) {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		directive := func(name string) (number int) {
			t.Helper()
			match := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindSubmatch(content)
			if match == nil {
				t.Fatalf("the unit has no %s", name)
			}
			if n, err := fmt.Sscanf(string(match[1])+"\n", "%d\n", &number); n != 1 || err != nil {
				t.Fatalf("%s=%s: %v; want a number", name, match[1], err)
			}
			return number
		}
		environment{}.wantDrains(t, time.Duration(directive("TimeoutStopSec"))*time.Second)
		if status := directive("RestartPreventExitStatus"); status != 2 {
			t.Errorf("foreman is not restarted after status %d; want 2", status)
		}
		if said := (environment{"FOREMAN_MANAGE": "maybe"}).refusedStart(t); !strings.Contains(said, "FOREMAN_MANAGE") {
			t.Errorf("got %s; want the variable that is wrong", said)
		}
		// As many chats as may wait at most by default, an embedding for each, and as many
		// connections to the host.
		if descriptors := directive("LimitNOFILE"); descriptors < 4*512 {
			t.Errorf("foreman may have %d descriptors; want 2,048", descriptors)
		}
	})
}

const composeFile = "../deploy/compose.yaml"

// TestCompose has Docker Compose's parser read the file, looks at what must agree in it,
// and runs foreman with what it sets.
func TestCompose(t *testing.T) {
	check := manifests(t, "compose")
	type service struct {
		Image, Restart  string
		Build           struct{ Context, Dockerfile string }
		Environment     environment
		DependsOn       map[string]any `json:"depends_on"`
		Ports           []struct{ Published, Target json.Number }
		Volumes         []struct{ Type, Target string }
		StopGracePeriod string   `json:"stop_grace_period"`
		ReadOnly        bool     `json:"read_only"`
		CapDrop         []string `json:"cap_drop"`
		SecurityOpt     []string `json:"security_opt"`
		Deploy          struct {
			Resources struct {
				Reservations struct {
					Devices []struct{ Driver string }
				}
			}
		}
	}
	type project struct {
		Services map[string]service
	}
	var made project
	if err := check(composeFile, &made); err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(made.Services)); !slices.Equal(names, []string{"foreman", "ollama"}) {
		t.Fatalf("got the services %q; want foreman and ollama", names)
	}
	foreman, host := made.Services["foreman"], made.Services["ollama"]

	t.Run("mistakes", func(t *testing.T) {
		wantRefused(t, composeFile, []edit{
			{"misspelt key", "stop_grace_period:", "stop_grace:", "services.foreman.stop_grace false schema"},
			{"no time", "stop_grace_period: 40s", "stop_grace_period: forty", `invalid duration "forty"`},
			{"no service", "- ollama", "- olama", `depends on undefined service "olama"`},
			{"no volume", "- models:", "- model:", "undefined volume model"},
			{"no port", "8080:8080 #", "8080:80800 #", "Invalid containerPort: 80800"},
			{"no truth value", "read_only: true", "read_only: perhaps", "invalid boolean: perhaps"},
			{"key twice", "read_only: true", "read_only: true\n    read_only: true", `mapping key "read_only" already defined`},
		}, func(file string) error { return check(file, new(project)) })
	})

	t.Run("GPU", func(t *testing.T) {
		content, err := os.ReadFile(composeFile)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "compose.yaml")
		with := regexp.MustCompile(`(?m)^    #(deploy:|  )`).ReplaceAll(content, []byte("    $1"))
		if err := os.WriteFile(file, with, 0o600); err != nil {
			t.Fatal(err)
		}
		var made project
		if err := check(file, &made); err != nil {
			t.Fatal(err)
		}
		if devices := made.Services["ollama"].Deploy.Resources.Reservations.Devices; len(devices) != 1 || devices[0].Driver != "nvidia" {
			t.Errorf("got the devices %v; want one", devices)
		}
	})

	t.Run("agreement", func(t *testing.T) {
		root, err := filepath.Abs("../..")
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(root, "Dockerfile"); filepath.Join(foreman.Build.Context, foreman.Build.Dockerfile) != want {
			t.Errorf("foreman is built from %+v; want %s", foreman.Build, want)
		}
		if host.Image != "ollama/ollama" || len(host.Volumes) != 1 || host.Volumes[0].Type != "volume" || host.Volumes[0].Target != "/root/.ollama" {
			t.Errorf("Ollama is %s with the volumes %v; want its image, and a volume for the models", host.Image, host.Volumes)
		}
		if got := host.Environment["OLLAMA_MAX_LOADED_MODELS"]; got != "2" {
			t.Errorf("OLLAMA_MAX_LOADED_MODELS=%s; want 2", got)
		}
		if len(host.Ports) > 0 {
			t.Errorf("Ollama can be reached at %v; want it behind foreman alone", host.Ports)
		}
		port := foreman.Environment.port(t)
		if p := foreman.Ports; len(p) != 1 || p[0].Published.String() != port || p[0].Target.String() != port {
			t.Errorf("ports %v; want %s, where foreman listens", p, port)
		}
		if _, ok := foreman.DependsOn["ollama"]; !ok {
			t.Error("Compose may stop Ollama before foreman has drained; want depends_on")
		}
		foreman.Environment.wantHost(t, "ollama")
		grace, err := time.ParseDuration(foreman.StopGracePeriod)
		if err != nil {
			t.Fatal(err)
		}
		foreman.Environment.wantDrains(t, grace)
		for name, service := range made.Services {
			if service.Restart != "unless-stopped" {
				t.Errorf("%s: restart: %s; want unless-stopped", name, service.Restart)
			}
		}
		if !foreman.ReadOnly || !slices.Equal(foreman.CapDrop, []string{"ALL"}) || !slices.Equal(foreman.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("read_only %v, cap_drop %q, security_opt %q; want the least that foreman needs", foreman.ReadOnly, foreman.CapDrop, foreman.SecurityOpt)
		}
	})

	t.Run("start", func(t *testing.T) {
		server := foreman.Environment.start(t)
		if got := get(t, server.URL+"/api/tags"); got.StatusCode != http.StatusOK {
			t.Errorf("without a token: got %s; want 200", got.Status)
		}
	})
}

const kubernetesFile = "../deploy/kubernetes.yaml"

// A manifest is what the tests look at of the Kubernetes manifest.
type manifest struct {
	secret struct {
		Metadata   struct{ Name string }
		StringData map[string]string
	}
	deployment struct {
		Spec struct {
			Replicas int
			Strategy struct{ Type string }
			Template struct {
				Metadata struct{ Labels map[string]string }
				Spec     pod
			}
		}
	}
	service struct {
		Spec struct {
			Selector map[string]string
			Ports    []struct{ Port, TargetPort any }
		}
	}
}

type pod struct {
	TerminationGracePeriodSeconds int
	AutomountServiceAccountToken  *bool
	EnableServiceLinks            *bool
	SecurityContext               struct{ RunAsUser, RunAsGroup, FSGroup int }
	Containers                    []container
	Volumes                       []struct {
		Name   string
		Secret struct {
			SecretName  string
			DefaultMode int
		}
	}
}

type container struct {
	Env                           []struct{ Name, Value string }
	Ports                         []struct{ Name, ContainerPort any }
	LivenessProbe, ReadinessProbe struct {
		HTTPGet struct{ Path, Port any }
	}
	SecurityContext struct{ ReadOnlyRootFilesystem bool }
	Resources       struct{ Limits struct{ Memory string } }
	VolumeMounts    []struct{ Name, MountPath, SubPath string }
}

// environment returns what the container sets.
func (c container) environment() environment {
	e := environment{}
	for _, v := range c.Env {
		e[v.Name] = v.Value
	}
	return e
}

// readManifest returns the manifest as Kubernetes makes it, once that has nothing to say
// against it.
func readManifest(t *testing.T, check func(file string, made any) error) (m manifest) {
	t.Helper()
	var objects []json.RawMessage
	if err := check(kubernetesFile, &objects); err != nil {
		t.Fatal(err)
	}
	into := map[string]any{"Secret": &m.secret, "Deployment": &m.deployment, "Service": &m.service}
	for _, object := range objects {
		var is struct{ Kind string }
		if err := json.Unmarshal(object, &is); err != nil {
			t.Fatal(err)
		}
		if into[is.Kind] == nil {
			t.Fatalf("a %s; want a Secret, a Deployment and a Service, each once", is.Kind)
		}
		if err := json.Unmarshal(object, into[is.Kind]); err != nil {
			t.Fatal(err)
		}
		delete(into, is.Kind)
	}
	if len(into) > 0 {
		t.Fatalf("there is no %v", slices.Sorted(maps.Keys(into)))
	}
	if n := len(m.deployment.Spec.Template.Spec.Containers); n != 1 {
		t.Fatalf("%d containers; want one", n)
	}
	return m
}

// TestKubernetes checks the manifest with the code of Kubernetes' API server, looks at
// what must agree in it, and runs foreman with what it sets.
func TestKubernetes(t *testing.T) {
	check := manifests(t, "kubernetes")
	m := readManifest(t, check)
	pod := m.deployment.Spec.Template.Spec
	container := pod.Containers[0]
	env := container.environment()

	t.Run("mistakes", func(t *testing.T) {
		wantRefused(t, kubernetesFile, []edit{
			{"misspelt field", "terminationGracePeriodSeconds:", "terminationGracePeriodSecond:", `unknown field "spec.template.spec.terminationGracePeriodSecond"`},
			{"misplaced field", "      targetPort: http", "  targetPort: http", `unknown field "spec.targetPort"`},
			{"field twice", "\n  replicas: 1", "\n  replicas: 1\n  replicas: 1", `key "replicas" already set`},
			{"no such kind", "kind: Service\n", "kind: Servise\n", `no kind "Servise"`},
			{"no number", "replicas: 1", "replicas: one", "cannot unmarshal string"},
			{"no port", "containerPort: 8080", "containerPort: 80800", "must be between 1 and 65535"},
			{"no quantity", "memory: 64Mi", "memory: 64MB", "quantities must match"},
			{"request over limit", "memory: 64Mi", "memory: 64Gi", "must be less than or equal to memory limit"},
			{"mount of no volume", "- name: tokens\n          secret:", "- name: token\n          secret:", "Not found"},
			{"no strategy", "type: Recreate", "type: Restart", "Unsupported value"},
			{"another label", "matchLabels:\n      app: foreman", "matchLabels:\n      app: man", "`selector` does not match template `labels`"},
			{"root", "runAsNonRoot: true", "runAsNonRoot: false", "not restricted: "},
			{"more rights", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "not restricted: "},
			{"capabilities", "drop: [ALL]", "drop: [KILL]", "not restricted: "},
			{"any system call", "type: RuntimeDefault", "type: Unconfined", "not restricted: "},
		}, func(file string) error { return check(file, new([]json.RawMessage)) })
	})

	t.Run("agreement", func(t *testing.T) {
		if spec := m.deployment.Spec; spec.Replicas != 1 || spec.Strategy.Type != "Recreate" {
			t.Errorf("replicas %d, strategy %s; want one foreman at a time", spec.Replicas, spec.Strategy.Type)
		}
		if labels := m.deployment.Spec.Template.Metadata.Labels; !maps.Equal(m.service.Spec.Selector, labels) {
			t.Errorf("the Service selects %v; want the pod, which has %v", m.service.Spec.Selector, labels)
		}
		port := env.port(t)
		if len(container.Ports) != 1 || fmt.Sprint(container.Ports[0].ContainerPort) != port {
			t.Fatalf("ports %v; want %s, where foreman listens", container.Ports, port)
		}
		name := container.Ports[0].Name
		if ports := m.service.Spec.Ports; len(ports) != 1 || fmt.Sprint(ports[0].Port) != port || ports[0].TargetPort != name {
			t.Errorf("the Service's ports are %v; want %s, to the port %v", ports, port, name)
		}
		for kind, p := range map[string]any{"liveness": container.LivenessProbe.HTTPGet, "readiness": container.ReadinessProbe.HTTPGet} {
			if want := (struct{ Path, Port any }{"/healthz", name}); p != want {
				t.Errorf("%s probe: got %v; want %v", kind, p, want)
			}
		}
		env.wantHost(t, "ollama")
		env.wantDrains(t, time.Duration(pod.TerminationGracePeriodSeconds)*time.Second)
		for what, value := range map[string]*bool{"the token of an account": pod.AutomountServiceAccountToken, "the Service's variables": pod.EnableServiceLinks} {
			if value == nil || *value {
				t.Errorf("the pod has %s; want it without", what)
			}
		}
		if !container.SecurityContext.ReadOnlyRootFilesystem {
			t.Error("the root file system can be written; foreman writes no file")
		}
		dockerfile, err := os.ReadFile("../../Dockerfile")
		if err != nil {
			t.Fatal(err)
		}
		if user := fmt.Sprintf("\nUSER %d:%d\n", pod.SecurityContext.RunAsUser, pod.SecurityContext.RunAsGroup); !bytes.Contains(dockerfile, []byte(user)) {
			t.Errorf("the Dockerfile has no line%s", user)
		}
	})

	t.Run("tokens", func(t *testing.T) {
		if len(pod.Volumes) != 1 || len(container.VolumeMounts) != 1 {
			t.Fatalf("volumes %v, mounts %v; want one", pod.Volumes, container.VolumeMounts)
		}
		volume, mount := pod.Volumes[0], container.VolumeMounts[0]
		if volume.Secret.SecretName != m.secret.Metadata.Name || mount.Name != volume.Name || mount.SubPath != "" {
			t.Errorf("%+v is mounted as %+v; want the Secret %s, whole", volume, mount, m.secret.Metadata.Name)
		}
		folder, key := path.Split(env["FOREMAN_TOKENS_FILE"])
		placeholders, ok := m.secret.StringData[key]
		if path.Clean(folder) != mount.MountPath || !ok {
			t.Fatalf("FOREMAN_TOKENS_FILE=%s; want a key of the Secret's, %v, in %s", env["FOREMAN_TOKENS_FILE"], slices.Sorted(maps.Keys(m.secret.StringData)), mount.MountPath)
		}
		if mode := volume.Secret.DefaultMode; mode != 0o440 || pod.SecurityContext.FSGroup != pod.SecurityContext.RunAsGroup {
			t.Errorf("mode %o, group %d; want a file that foreman's group may read, and nobody else", mode, pod.SecurityContext.FSGroup)
		}

		file := filepath.Join(t.TempDir(), key)
		env := env.with(environment{"FOREMAN_TOKENS_FILE": file})
		write := func(content string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		const placeholder = " CHANGE"
		if n := strings.Count(placeholders, placeholder); n != 3 {
			t.Fatalf("the tokens are %q; want three that are to be changed", placeholders)
		}
		for changed := range 3 { // not all of them
			write(strings.Replace(placeholders, placeholder, " sesame-1", changed))
			if said, want := env.refusedStart(t), "expected the token of nightly to have at least 8 characters"; !strings.Contains(said, want) {
				t.Errorf("%d tokens changed: got %s; want %q", changed, said, want)
			}
		}
		write(strings.NewReplacer("ann CHANGE", "ann sesame-1", "bob CHANGE", "bob sesame-2", "nightly CHANGE", "nightly sesame-3").Replace(placeholders))
		foreman := env.start(t)
		for token, want := range map[string]int{"sesame-1": http.StatusOK, "sesame-2": http.StatusOK, "CHANGE": http.StatusUnauthorized, "": http.StatusUnauthorized} {
			resp, err := withToken(token).Get(foreman.URL + "/api/tags")
			if got := read(t, resp, err); got.StatusCode != want {
				t.Errorf("with the token %q: got %s; want %d", token, got.Status, want)
			}
		}
		for _, path := range []any{container.LivenessProbe.HTTPGet.Path, container.ReadinessProbe.HTTPGet.Path} {
			if got := get(t, foreman.URL+fmt.Sprint(path)); got.StatusCode != http.StatusOK {
				t.Errorf("probe of %v: got %s; want 200 without a token", path, got.Status)
			}
		}
	})
}

// A filler is a body of a chat that may have any size.
type filler struct{ begin, repeated, end string }

// worstBodies are those that cost most to read.
var worstBodies = []filler{
	{`{"model":"chat","options":{`, `"a":1,`, `"b":2},"messages":[{"role":"user","content":"x"}]}`},
	{`{`, `"model":"chat",`, `"messages":[{"role":"user","content":"x"}]}`},
	{`{"model":"chat","keep_alive":[`, `[],`, `0],"messages":[]}`},
	{`{"model":"`, ` `, `chat","messages":[{"role":"user","content":"x"}]}`},
	{`{"model":"chat","messages":[{"role":"user","content":"`, `\"`, `"}]}`},
	{`{"model":"chat",`, `"\u006dodex":1,`, `"messages":[{"role":"user","content":"x"}]}`},
}

// reader returns a body of at most size bytes, and how many it has.
func (f filler) reader(size int64) (io.Reader, int64) {
	n := (size - int64(len(f.begin)+len(f.end))) / int64(len(f.repeated))
	again := make([]io.Reader, 0, n/(1<<10)+3)
	again = append(again, strings.NewReader(f.begin))
	for left := n; left > 0; left -= 1 << 10 {
		again = append(again, strings.NewReader(strings.Repeat(f.repeated, int(min(left, 1<<10)))))
	}
	return io.MultiReader(append(again, strings.NewReader(f.end))...), int64(len(f.begin)+len(f.end)) + n*int64(len(f.repeated))
}

// TestKubernetesMemory sends more bodies to a line than may wait in it, and looks whether
// foreman ever had more memory than 448 MB, which leaves some to the manifest's limit, at
// which Linux kills it.
func TestKubernetesMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		leaveOut(t, "the test of the memory limit needs Linux")
	}
	container := readManifest(t, manifests(t, "kubernetes")).deployment.Spec.Template.Spec.Containers[0]
	var limit int64
	if _, err := fmt.Sscanf(container.Resources.Limits.Memory, "%dMi", &limit); err != nil {
		t.Fatalf("memory limit %q: %v; want it in Mi", container.Resources.Limits.Memory, err)
	}

	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"models":[{"name":"chat:latest","model":"chat:latest"}]}`)
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Errorf("the target: %v", err)
		}
		if r.URL.Path == "/api/chat" {
			<-released
		}
		io.WriteString(w, `{}`)
	})
	target := httptest.NewServer(mux)
	defer target.Close()

	dir := t.TempDir()
	binary, err := lab.BuildForeman(t.Context(), dir) // the race detector takes memory, too
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	foreman, err := lab.StartForemanAs(t.Context(), cmd, dir, container.environment().with(environment{
		"FOREMAN_ADDR": "127.0.0.1:0", "FOREMAN_OLLAMA_URL": target.URL, "FOREMAN_TOKENS_FILE": "",
	}).list()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := foreman.Stop(); err != nil {
			t.Errorf("foreman ended with %v; want a clean end", err)
		}
	}()
	eventually(t, func() error { return wantStatus(foreman.URL+"/readyz", http.StatusOK) })

	const size = 63 << 20 // of a chat; four of them may be in line
	var clients sync.WaitGroup
	sent, turnedAway := 0, atomic.Int64{}
	send := func() {
		kind := worstBodies[sent%len(worstBodies)]
		sent++
		clients.Go(func() {
			body, length := kind.reader(size)
			r, err := http.NewRequestWithContext(t.Context(), "POST", foreman.URL+"/api/chat", body)
			if err != nil {
				t.Error(err)
				return
			}
			r.ContentLength = length
			resp, err := http.DefaultClient.Do(r)
			if err != nil { // foreman has told it to go while it still sent
				turnedAway.Add(1)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusServiceUnavailable {
				turnedAway.Add(1)
			} else if resp.StatusCode != http.StatusOK {
				t.Errorf("a chat: got %s", resp.Status)
			}
		})
	}
	defer clients.Wait()
	defer release()
	inLine := 0
	settle := func() {
		eventually(t, func() error {
			var health struct{ Running, Waiting int }
			if err := json.Unmarshal([]byte(get(t, foreman.URL+"/healthz").body), &health); err != nil {
				return err
			}
			inLine = health.Running + health.Waiting
			if gone := int(turnedAway.Load()); inLine+gone < sent {
				return fmt.Errorf("of %d chats %d are in line and %d were turned away", sent, inLine, gone)
			}
			return nil
		})
	}
	for range 12 {
		send()
	}
	settle()
	if turnedAway.Load() == 0 {
		t.Error("no chat was turned away; want more than may wait")
	}
	for range 4 - inLine { // chats that come at once may turn more of each other away than need be
		send()
		settle()
	}
	if inLine != 4 {
		t.Errorf("%d chats are in line; want 4", inLine)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var most int64 // KiB, proc(5)
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &most); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d chats of %d MiB in line, %d turned away: foreman had %d MiB at the most", inLine, size>>20, turnedAway.Load(), most>>10)
	if most<<10 > 448_000_000 || most >= limit<<10 {
		t.Errorf("foreman had %d MiB; want at most 448 MB, the manifest's limit is %d MiB", most>>10, limit)
	}
}
