#!/usr/bin/env bash
# A real Kubernetes control plane on loopback, for the tests of the launcher `kubernetes`: kube-apiserver and
# kube-controller-manager 1.20 with etcd. On Debian, as root: the distribution's own source package is compiled with its
# own Go (some ten minutes of CPU, 2.5 GB).
# usage: control_plane.sh build|start|stop; files are in $DIR. `start` prints the path of a kubeconfig.
set -euo pipefail
DIR=${DIR:-${TMPDIR:-/tmp}/dapo-control-plane}
BIN=$DIR/bin
mkdir -p "$BIN"
cd "$DIR"

build() {
  [[ -x $BIN/kube-apiserver && -x $BIN/kube-controller-manager ]] && return
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends golang-go golang-github-modern-go-reflect2-dev rsync make jq etcd-server \
    dpkg-dev curl openssl > apt.log 2>&1
  mkdir -p apt/lists/partial apt/cache/archives/partial
  sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources > apt/sources.sources
  local options=(-o "Dir::Etc::sourcelist=$DIR/apt/sources.sources" -o "Dir::Etc::sourceparts=-" -o "APT::Sandbox::User=root"
    -o "Dir::State::lists=$DIR/apt/lists" -o "Dir::Cache=$DIR/apt/cache")
  apt-get "${options[@]}" update -qq
  apt-get "${options[@]}" source --download-only -qq kubernetes
  rm -rf gopath
  mkdir -p gopath/src/k8s.io home
  tar xzf kubernetes_1.20*.orig.tar.gz -C gopath/src/k8s.io
  mv gopath/src/k8s.io/kubernetes-1.20* gopath/src/k8s.io/kubernetes
  cd gopath/src/k8s.io/kubernetes
  # The vendored reflect2 1.0.1 crashes under Go 1.18 and newer on custom resources: the distribution has 1.0.2.
  local reflect2=vendor/github.com/modern-go/reflect2
  rm -f $reflect2/*.go $reflect2/*.s
  cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} $reflect2/
  rm -f $reflect2/*_test.go
  HOME=$DIR/home GOPROXY=off CGO_ENABLED=0 GOLDFLAGS="-s -w" make WHAT="cmd/kube-apiserver cmd/kube-controller-manager" \
    > "$DIR/build.log" 2>&1
  cp _output/local/bin/linux/amd64/kube-{apiserver,controller-manager} "$BIN"/
  cd "$DIR"
  rm -rf gopath
}

start() {
  stop
  rm -rf data certs
  mkdir -p data certs
  openssl genrsa -out certs/sa.key 2048 2> /dev/null
  local token
  token=$(openssl rand -hex 16)
  echo "$token,admin,admin,\"system:masters\"" > certs/tokens.csv
  etcd --data-dir data/etcd --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
    --listen-peer-urls http://127.0.0.1:12380 --unsafe-no-fsync > etcd.log 2>&1 &
  echo $! > etcd.pid
  "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:12379 --cert-dir=certs --bind-address=127.0.0.1 --secure-port=16443 \
    --advertise-address=10.255.255.1 --service-cluster-ip-range=10.96.0.0/16 --token-auth-file=certs/tokens.csv \
    --authorization-mode=RBAC --allow-privileged=true --service-account-issuer=https://kubernetes.default.svc \
    --service-account-signing-key-file=certs/sa.key --service-account-key-file=certs/sa.key \
    --disable-admission-plugins=ServiceAccount --endpoint-reconciler-type=none > apiserver.log 2>&1 &
  echo $! > apiserver.pid
  cat > kubeconfig << CONFIG
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://127.0.0.1:16443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: lab, context: {cluster: lab, user: admin}}]
current-context: lab
CONFIG
  for _ in $(seq 1 240); do
    curl -sk -H "Authorization: Bearer $token" https://127.0.0.1:16443/readyz 2> /dev/null | grep -q '^ok$' && break
    sleep 0.5
  done
  "$BIN/kube-controller-manager" --kubeconfig=kubeconfig --service-account-private-key-file=certs/sa.key --leader-elect=false \
    --controllers='*,-nodeipam,-cloud-node-lifecycle,-route,-service,-horizontalpodautoscaling' \
    --bind-address=127.0.0.1 --secure-port=0 --port=0 > controllers.log 2>&1 &
  echo $! > controllers.pid
  echo "$DIR/kubeconfig"
}

stop() {
  for name in controllers apiserver etcd; do
    if [[ -f $name.pid ]]; then
      kill "$(cat $name.pid)" 2> /dev/null || true
      rm -f $name.pid
    fi
  done
}

"${1:?build|start|stop}"
