package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"foreman/e2e/lab"
)

const certificates = "etc/ssl/certs/ca-certificates.crt"

// imageVersion and imageCommit are what the tests build images of.
const (
	imageVersion = "v0.0.0-test"
	imageCommit  = "0123456789abcdef0123456789abcdef01234567"
)

// An image is a root that lies in a directory, and how to run it.
type image struct {
	root string

	OS           string
	Architecture string
	Config       struct {
		User         string
		Env          []string
		Entrypoint   []string
		Labels       map[string]string
		ExposedPorts map[string]struct{}
		Healthcheck  struct{ Test []string }
	}
}

// TestImage builds the image as the READMEs say: for this machine without a word more,
// and for each platform of its command for releases, with its arguments. Images for
// this machine are run from their layers.
func TestImage(t *testing.T) {
	readme, err := os.ReadFile("../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`docker buildx build --platform (\S+) (?:.*\\\n)*.* --push \.\n`).FindSubmatch(readme)
	if command == nil {
		t.Fatal("testdata/deploy/README.md has no command for images of several platforms")
	}
	var args []string
	for _, match := range regexp.MustCompile(`--build-arg (\w+)=`).FindAllSubmatch(command[0], -1) {
		name := string(match[1])
		value, ok := map[string]string{"VERSION": imageVersion, "COMMIT": imageCommit}[name]
		if !ok {
			t.Fatalf("testdata/deploy/README.md has the build argument %s; want VERSION and COMMIT", name)
		}
		args = append(args, "--build-arg="+name+"="+value)
	}

	type build struct {
		name, architecture, version, commit string
		args                                []string
	}
	builds := []build{{"this machine", runtime.GOARCH, "unknown", "unknown", nil}}
	for platform := range strings.SplitSeq(string(command[1]), ",") {
		builds = append(builds, build{platform, path.Base(platform), imageVersion, imageCommit, append([]string{"--platform=" + platform}, args...)})
	}

	b := newBuildah(t)
	b.makeBase(t)
	for _, tt := range builds {
		t.Run(tt.name, func(t *testing.T) {
			i := b.build(t, tt.args...)
			if i.OS != "linux" || i.Architecture != tt.architecture {
				t.Errorf("got an image for %s/%s; want linux/%s", i.OS, i.Architecture, tt.architecture)
			}
			delete(i.Config.Labels, "io.buildah.version")
			if want := (map[string]string{
				"org.opencontainers.image.title":       "foreman",
				"org.opencontainers.image.description": "A proxy in front of one Ollama host: one chat at a time, embeddings at once",
				"org.opencontainers.image.version":     tt.version,
				"org.opencontainers.image.revision":    tt.commit,
			}); !maps.Equal(i.Config.Labels, want) {
				t.Errorf("got labels %v; want %v", i.Config.Labels, want)
			}
			if _, ok := i.Config.ExposedPorts["8080/tcp"]; !ok || len(i.Config.ExposedPorts) != 1 {
				t.Errorf("got ports %v; want 8080/tcp", i.Config.ExposedPorts)
			}
			i.checkFiles(t, tt.architecture)
			if tt.architecture == runtime.GOARCH {
				i.run(t, tt.version, tt.commit)
			}
		})
	}
}

// TestImageByHand does by hand what the Dockerfile says, for machines without buildah:
// it builds the binary with the same command from the files that .dockerignore lets
// through, and puts it and the certificates into an empty root.
func TestImageByHand(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	find := func(pattern string) string {
		match := regexp.MustCompile(`(?m)^` + pattern + `$`).FindSubmatch(text)
		if match == nil {
			t.Fatalf("the Dockerfile has no line %s", pattern)
		}
		return string(match[1])
	}
	list := func(text string) (values []string) {
		if err := json.Unmarshal([]byte(text), &values); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return values
	}
	build := find(`RUN (.* go build .*)`)
	i := &image{root: t.TempDir()}
	i.Config.User = find(`USER (.*)`)
	i.Config.Env = []string{find(`ENV (.*)`)}
	i.Config.Entrypoint = list(find(`ENTRYPOINT (.*)`))
	i.Config.Healthcheck.Test = append([]string{"CMD"}, list(find(`HEALTHCHECK .* CMD (.*)`))...)

	context := t.TempDir()
	for _, name := range []string{"go.mod", "main.go", "config", "gate", "inventory", "proxy", "warm"} {
		if out, err := exec.Command("cp", "-r", filepath.Join("../..", name), context).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(build, "-o /foreman", "-o "+filepath.Join(i.root, "foreman"), 1))
	cmd.Dir = context
	cmd.Env = append(os.Environ(), "VERSION="+imageVersion, "COMMIT="+imageCommit, "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	text, err = os.ReadFile("/" + certificates)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(i.root, path.Dir(certificates)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(i.root, certificates), text, 0o644); err != nil {
		t.Fatal(err)
	}
	i.checkFiles(t, runtime.GOARCH)
	i.run(t, imageVersion, imageCommit)
}

// checkFiles checks that the image has its two files and no other, and a binary for
// the architecture that needs no library.
func (i *image) checkFiles(t *testing.T, architecture string) {
	t.Helper()
	const limit = 11_000_000 // bytes
	var size int64
	var files []string
	err := fs.WalkDir(os.DirFS(i.root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		files, size = append(files, name), size+info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", size)
	if want := []string{certificates, "foreman"}; !slices.Equal(files, want) {
		t.Errorf("got files %q; want %q", files, want)
	}
	if size >= limit {
		t.Errorf("the files have %d bytes; want less than %d", size, limit)
	}
	if runtime.GOOS != "linux" {
		return // and neither has the binary by hand this format
	}
	binary, err := elf.Open(filepath.Join(i.root, "foreman"))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[architecture]; binary.Machine != want {
		t.Errorf("got a binary for %v; want %v", binary.Machine, want)
	}
	if libraries, err := binary.ImportedLibraries(); len(libraries) > 0 {
		t.Errorf("the binary needs %q, %v; want no library", libraries, err)
	}
}

// run runs the image as an engine would: in its root, as its user, with its environment.
// Only root can do all of that.
func (i *image) run(t *testing.T, version, commit string) {
	t.Helper()
	attributes := &syscall.SysProcAttr{Setpgid: true}
	prefix := i.root
	if os.Getuid() == 0 {
		var uid, gid uint32
		if _, err := fmt.Sscanf(i.Config.User, "%d:%d", &uid, &gid); err != nil || uid == 0 || gid == 0 {
			t.Fatalf("user %s, %v; want two numbers that are not root's", i.Config.User, err)
		}
		attributes.Chroot, attributes.Credential, prefix = i.root, &syscall.Credential{Uid: uid, Gid: gid}, "/"
	}
	in := func(command []string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), filepath.Join(prefix, command[0]), append(command[1:], args...)...)
		cmd.SysProcAttr, cmd.Dir, cmd.Env = attributes, "/", slices.Clone(i.Config.Env)
		return cmd
	}
	got, err := in(i.Config.Entrypoint, "-version").CombinedOutput()
	if want := fmt.Sprintf("foreman %s (commit %s, %s, %s/%s)\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH); err != nil || string(got) != want {
		t.Errorf("-version: got %q, %v; want %q", got, err, want)
	}
	usage, err := in(i.Config.Entrypoint, "-h").CombinedOutput()
	if want := regexp.MustCompile(`(?m)^FOREMAN_OLLAMA_URL +http://host\.docker\.internal:11434 `); err != nil || !want.Match(usage) {
		t.Errorf("-h: got %s, %v; want %v", usage, err, want)
	}

	foreman, err := lab.StartForemanAs(t.Context(), in(i.Config.Entrypoint), t.TempDir(),
		append(slices.Clone(i.Config.Env), "FOREMAN_OLLAMA_URL="+ollama.URL, "TZ=Europe/Berlin")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { foreman.Stop() })
	eventually(t, func() error { return wantHealth(foreman.URL, "ok", "") })
	if log, want := foreman.Log(), regexp.MustCompile(`(?m)^time=\S+\+0[12]:00 level=INFO msg=starting`); !want.MatchString(log) {
		t.Errorf("TZ=Europe/Berlin: got log %s; want its time, %v", log, want)
	}
	test := i.Config.Healthcheck.Test
	if len(test) < 2 || test[0] != "CMD" {
		t.Fatalf("got health check %q; want one that is run without a shell", test)
	}
	check := in(test[1:])
	check.Env = append(check.Env, "FOREMAN_ADDR="+strings.TrimPrefix(foreman.URL, "http://"))
	if out, err := check.CombinedOutput(); err != nil || !strings.Contains(string(out), `"status":"ok"`) {
		t.Errorf("%q: got %s, %v; want ok", test, out, err)
	}
}

// A buildah builds images in a directory of the test, and never asks a registry.
type buildah struct {
	dir   string
	cache string // of the go command
}

func newBuildah(t *testing.T) *buildah {
	t.Helper()
	need(t, "apt-get install buildah", "buildah")
	b := &buildah{dir: t.TempDir(), cache: goEnv(t, "GOCACHE")}
	b.write(t, "registries.conf", `unqualified-search-registries = ["docker.io"]`)
	t.Cleanup(func() { // only buildah may remove what it made for a user who is not root
		b.do(t, "rm", "--all")
		b.do(t, "rmi", "--all", "--force")
	})
	return b
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// write writes a file into the directory.
func (b *buildah) write(t *testing.T, name, content string) (file string) {
	t.Helper()
	file = filepath.Join(b.dir, name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// do runs a buildah command, and returns what it writes to its standard output.
func (b *buildah) do(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("buildah", append([]string{
		"--root", filepath.Join(b.dir, "storage"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "vfs",
	}, args...)...)
	cmd.Env = append(os.Environ(), "BUILDAH_ISOLATION=chroot", "CONTAINERS_REGISTRIES_CONF="+filepath.Join(b.dir, "registries.conf"), "TMPDIR="+b.dir)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("buildah %q: %v\n%s%s", args, err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String())
}

// makeBase makes the Dockerfile's base image of this machine's Go, its shell and
// its certificates. There is nothing else in it, and no module can be fetched.
func (b *buildah) makeBase(t *testing.T) {
	t.Helper()
	libraries, err := exec.CommandContext(t.Context(), "ldd", "/bin/sh").Output()
	if err != nil {
		t.Fatalf("ldd /bin/sh: %v", err)
	}
	files := []string{"/bin/sh", "/" + certificates}
	for _, match := range regexp.MustCompile(`(/\S+) \(0x`).FindAllSubmatch(libraries, -1) {
		files = append(files, string(match[1]))
	}
	base := b.do(t, "from", "scratch")
	for _, file := range files {
		b.do(t, "copy", base, file, file)
	}
	b.do(t, "copy", base, t.TempDir(), "/tmp")
	unused := b.write(t, "unused", "api\ndoc\nmisc\ntest\nsrc/cmd\n**/testdata\n**/*_test.go\n")
	goroot := goEnv(t, "GOROOT")
	b.do(t, "copy", "--ignorefile="+unused, "--contextdir="+goroot, base, goroot, "/usr/local/go")
	b.do(t, "config", "--env=PATH=/usr/local/go/bin:/bin", "--env=GOCACHE=/cache", "--env=GOPROXY=off", "--env=GOTOOLCHAIN=local", base)
	b.do(t, "commit", "--rm", base, "docker.io/library/golang:1.26")
}

// build builds the Dockerfile's image and unpacks it. Docker's format is the one that
// knows health checks.
func (b *buildah) build(t *testing.T, args ...string) *image {
	t.Helper()
	if runtime.GOARCH != "amd64" { // which the Dockerfile takes for granted where buildah does not know
		args = append(args, "--build-arg=BUILDPLATFORM=linux/"+runtime.GOARCH)
	}
	b.do(t, slices.Concat([]string{"build", "--pull=never", "--format=docker", "--volume=" + b.cache + ":/cache", "--tag=foreman"}, args, []string{"../.."})...)
	archive := filepath.Join(t.TempDir(), "image.tar")
	b.do(t, "push", "foreman", "docker-archive:"+archive)
	return unpackImage(t, archive)
}

// unpackImage unpacks the layers of an image that is in Docker's archive format.
func unpackImage(t *testing.T, archive string) *image {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	contents := map[string][]byte{}
	eachFile(t, file, func(header *tar.Header, content io.Reader) error {
		text, err := io.ReadAll(content)
		contents[header.Name] = text
		return err
	})
	var manifest []struct {
		Config string
		Layers []string
	}
	i := &image{root: t.TempDir()}
	if err := json.Unmarshal(contents["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest.json: %s, %v; want one image", contents["manifest.json"], err)
	}
	if err := json.Unmarshal(contents[manifest[0].Config], i); err != nil {
		t.Fatalf("%s: %v", contents[manifest[0].Config], err)
	}
	root, err := os.OpenRoot(i.root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, layer := range manifest[0].Layers {
		eachFile(t, bytes.NewReader(contents[layer]), func(header *tar.Header, content io.Reader) error {
			name, mode := path.Clean(header.Name), header.FileInfo().Mode()
			switch {
			case header.Uid != 0 || header.Gid != 0:
				return fmt.Errorf("of user %d and group %d; want root's", header.Uid, header.Gid)
			case strings.HasPrefix(path.Base(name), ".wh."):
				return errors.New("removes a file of a layer below; want no such file")
			case mode.IsDir():
				return errors.Join(root.MkdirAll(name, 0o700), root.Chmod(name, mode.Perm()))
			case !mode.IsRegular():
				return fmt.Errorf("%v; want a directory or a file", mode)
			}
			text, err := io.ReadAll(content)
			return errors.Join(err, root.WriteFile(name, text, 0o600), root.Chmod(name, mode.Perm()))
		})
	}
	return i
}

// eachFile calls do with each entry of the archive.
func eachFile(t *testing.T, archive io.Reader, do func(*tar.Header, io.Reader) error) {
	t.Helper()
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := do(header, r); err != nil {
			t.Fatalf("%s: %v", header.Name, err)
		}
	}
}
