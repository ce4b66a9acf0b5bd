"""Series descriptions as hospitals of many countries and vendors write them, composed by us, with what they are.

`FIRST` was composed before the rules of this version were written, `SECOND` and `THIRD` after them; what the rules made
of each at first sight is in docs/series.md, and what they got wrong was then mended. "-" is a series that must not be
taken.
"""

FIRST = """
T1 tra ohne KM | T1
T1 tra nach KM | T1C
t1_mprage_sag_p2_iso_nativ | T1
t1_mprage_tra_p2_iso_KM | T1C
T1w axial vor Kontrastmittel | T1
T1 TSE transversal nach Gadovist | T1C
t1_fl2d_tra_fs_post_KM | T1C
T2 TSE axial Kopf | T2
T2 tra 3 mm Schädel | T2
FLAIR tra | FLAIR
t2_spc_da-fl_sag_p2_iso | FLAIR
t2_space_dark-fluid_sag_p2_iso_fs | FLAIR
T2W_FLAIR_longTR_CLEAR | FLAIR
Übersicht 3 Ebenen | -
Vorläufer Localizer | -
Subtraktion T1 KM-nativ | -
HWS T2 sag | -
Diffusion tra b1000 | -
ep2d_diff_b0_b500_b1000_TRACEW | -
T2* FFE Hämo | -
AX T1 SANS INJECTION | T1
AX T1 SE AVEC GADO | T1C
T1 3D GADO | T1C
AX T1 INJ | T1C
SAG T1 SANS IV | T1
AX T2 FRFSE | T2
AXIAL T2 FLAIR CERVEAU | FLAIR
REPERAGE 3 PLANS | -
DIFFUSION B1000 AXIALE | -
PERFUSION T2* GADO | -
ANGIO VEINEUSE 3D PC | -
AX ECHO DE GRADIENT T2 | -
T1 AXIAL SIN CONTRASTE | T1
T1 AXIAL CON CONTRASTE | T1C
T1 3D CIV | T1C
AX T1 SE CON GADOLINIO | T1C
AX T2 TSE CRANEO | T2
FLAIR AXIAL | FLAIR
LOCALIZADOR | -
DIFUSION | -
COEFICIENTE DE DIFUSION APARENTE | -
PERFUSION CEREBRAL | -
ASS T1 SE SENZA MDC | T1
ASS T1 SE CON MDC | T1C
T1 3D MDC | T1C
ASS T2 TSE ENCEFALO | T2
SAG FLAIR 3D CUBE | FLAIR
CENTRATURA | -
DIFFUSIONE | -
T1 AXIAL PRE CONTRASTE | T1
T1 AXIAL POS CONTRASTE | T1C
AX T1 POS GD | T1C
CORTE AXIAL T2 | T2
DIFUSAO AXIAL | -
LOCALIZADORES | -
T1 TRA ZONDER CONTRAST | T1
T1 TRA MET CONTRAST | T1C
T1 TSE tra na contrast | T1C
T2 TSE TRA | T2
FLAIR TRA 4MM | FLAIR
diffusie | -
T1 AX BEZ KONTRASTU | T1
T1 AX PO KONTRASCIE | T1C
T1 SE TRA Z KONTRASTEM | T1C
T2 TSE TRA GLOWA | T2
DYFUZJA | -
T1 AKSIYEL KONTRASTSIZ | T1
T1 AKSIYEL KONTRASTLI | T1C
T2 AKSIYEL TSE | T2
DIFUZYON | -
T1 аксиальная | T1
T1 ВИ с контрастом | T1C
T1 ВИ без контраста | T1
Т2 ВИ аксиальная | T2
диффузия | -
T1WI 轴位 平扫 | T1
T1WI 轴位 增强 | T1C
T1 矢状位 增强扫描 | T1C
T2WI 横断位 | T2
T2 FLAIR 轴位 | FLAIR
黑水像 轴位 | FLAIR
定位像 | -
弥散加权 | -
灌注成像 | -
磁敏感加权 | -
三维时间飞跃 血管 | -
T1 軸位 對比劑後 | T1C
T1 軸位 注射前 | T1
T1 造影後 axial | T1C
T1 単純 axial | T1
T2強調 横断 | T2
位置決め | -
拡散強調 | -
T1 조영증강 축상 | T1C
T1 조영전 | T1
T2 축상 | T2
확산강조 | -
+C Ax T1 FSPGR BRAVO | T1C
Sag 3D T1 BRAVO | T1
Ax 3D BRAVO POST | T1C
Sag T1 FLAIR | T1
AX T1 FLAIR PROPELLER | T1
+C AX T1 FLAIR FS | T1C
Ax T2 PROPELLER FS | T2
AX T2 FLAIR FS +C | FLAIR
Ax CUBE T2 FLAIR POST | FLAIR
3D Ax SWAN | -
Ax 3D ASL (non-contrast) | -
Ax DWI ALL b-1000 | -
FILT_PHA: Ax SWAN | -
Ax LAVA Flex +C | T1C
WATER: Ax T1 IDEAL +C | T1C
FAT: Ax T1 IDEAL +C | -
Ax MERGE | -
ORIG Ax SWAN | -
T1W_3D_TFE_SENSE | T1
sT1W_3D_TFE_CE | T1C
T1W_TSE_CE_TRA | T1C
3D_Brain_VIEW_T2 | T2
3D_Brain_VIEW_FLAIR_SHC | FLAIR
VISTA_FLAIR | FLAIR
T2W_FFE | -
SWIp | -
DWI_SSh | -
dDWI_b1000 | -
B-FFE_XD | -
T1W_IR_TSE | T1
isoADC | -
dADC | -
sDWI_SSh_b0 | -
s3DI_MC_HR | -
WIP DTI_high_32dir | -
t1_vibe_dixon_tra_p4_W | T1
t1_vibe_dixon_tra_p4_F | -
t1_vibe_dixon_tra_opp | -
t1_tse_dixon_tra_KM_W | T1C
t1_mp2rage_sag_INV1 | -
t1_mp2rage_sag_UNI_Images | T1
t1_mp2rage_sag_T1_Images | -
t1_space_sag_p2_iso_KM | T1C
t1_mprage_cor_MPR | -
t2_tse_tra_512_blade | T2
t2_fl2d_tra_hemo | -
t2_swi_tra_p2_1.5mm | -
tof_fl3d_tra_p2_multi-slab | -
ep2d_perf_p2_rCBV | -
ep2d_pace_rest_fMRI | -
gre_field_mapping_2mm | -
svs_se_135 | -
AAHead_Scout_64ch-head-coil | -
Phoenix Document | -
t1_gre_fsp_3d_sag_iso | T1
t2_fse_tra_fluid_matrix_flair | FLAIR
matrix_t2_flair_sag_fs | FLAIR
epi_dwi_tra_b1000 | -
T1 FASE 3D | T1
FSE T2 AX 256 | T2
DYNAMIC T1 PITUITARY POST | -
T2 ORBITS FS COR | -
MRA COW 3D TOF | -
AX STIR BRAIN | -
DIR_SPACE sag | -
PD TSE tra | -
Ax PD T2 dual echo | -
T1 MT tra KM | T1C
magnitude image | -
T1 map | -
synthetic T2 FLAIR | -
SyMRI T1W | -
QSM | -
Stealth T1 post contrast 1mm | T1C
BRAINLAB T1 GD | T1C
Navigation T1 mprage +KM | T1C
T1 GK planning gad | T1C
Bolus tracking | -
TRUFI sag | -
""".strip()

SECOND = """
Ax T1 Cor Reformat | -
AXIAL T1 WITHOUT | T1
AXIAL T1 WITH | T1C
Ax T1 MEMP | T1
Ax T1 FLAIR POST GAD | T1C
3D AX T1 C+ FS | T1C
SAG T2 FRFSE | T2
OBL AX T2 | T2
COR T2 FLAIR HIPPOCAMPUS | FLAIR
AX FLAIR POST | FLAIR
AX FLAIR PROPELLER | FLAIR
Ax T2 FLAIR FatSat | FLAIR
AX SWI 3D | -
eSWAN Ax | -
AX DWI B-1000 ASSET | -
Ax DWI (b=1000) | -
RAPID CBF maps | -
Ax Perfusion DSC | -
rCBV corrected | -
DCE 60 phases | -
3DPCASL | -
(Transit delay) ASL | -
AX 3D TOF CIRCLE OF WILLIS | -
INHANCE 3D VELOCITY | -
MRV 2D TOF | -
MRS SV TE144 | -
PROBE-P SV | -
3-plane T2 SSFSE localizer | -
GE ASSET CAL | -
Calibration Scan | -
T1 weighted post contrast axial | T1C
T1 weighted pre-contrast axial | T1
T2 weighted axial TSE | T2
Axial T2-weighted | T2
T1-weighted MPRAGE | T1
MPRAGE GD | T1C
MPRAGE post Gd | T1C
MPR_3D_GD | -
t1_mpr_3d_gd | T1C
t1_mprage_sag_p2_iso_post | T1C
t1_mprage_sag_iso_POST_MPR_Tra | -
t1_se_cor_fs_gd | T1C
t1_tse_dark-fluid_tra | T1
t1_tirm_tra_dark-fluid_KM | T1C
t2_tirm_tra_dark-fluid_fs | FLAIR
t2_space_flair_sag | FLAIR
flair_space_sag_iso_km | FLAIR
t2_tse_tra_fs | T2
t2_blade_tra_3mm | T2
t2_haste_tra | T2
ep2d_diff_tra_ADC_DFC_MIX | -
ep2d_diff_tra_CALC_BVAL | -
ep2d_ase_oef | -
RESOLVE_4scan_trace_tra_TRACEW | -
Mag_Images | -
SWI_Images | -
mIP_Images(SW) | -
relCBV_Leakage_Corrected | -
GBP | -
ep2d_bold_moco | -
MoCoSeries | -
TTP | -
PBP | -
Perf_Weighted_TRA_ASL | -
dti_ep2d_64dir_FA | -
ColFA | -
fl2d_vessel_scout | -
gre_localizer | -
t1_vibe_tra_fs_KM_SUB | -
Kopf T1 tra nativ 5mm | T1
Kopf T1 tra KM 5mm | T1C
T1 SE tra + Gd | T1C
T1 tra vor KM-Gabe | T1
T1 3D nach i.v. KM | T1C
T1 FFE tra m. KM | T1C
T1 TFE 3D ohne | T1
PD/T2 TSE tra | -
Diffusion 3 Richtungen | -
DWI mit ADC | -
KM-Perfusion | -
MRA intrakraniell | -
Screenshots | -
Befund | -
sag T1 Localizer | -
T1 SE AXIAL SANS INJ | T1
T1 SE AXIAL INJECTE | T1C
3DT1 GADO | T1C
Ax T1 EG 3D apres gado | T1C
FLAIR AX 5MM | FLAIR
CUBE FLAIR SAG | FLAIR
AX T2 EG | -
T2 ETOILE | -
ANGIO TOF POLYGONE | -
PERFU T2* | -
ARBRE VASCULAIRE TOF | -
T2 AXIAL TSE CEREBRO | T2
T1 AXIAL C/C | T1C
T1 AXIAL S/C | T1
T1 SAG SIMPLE | T1
T1 COR CONTRASTADO | T1C
T1 TRA GADOLINIO | T1C
FLAIR CORONAL | FLAIR
DIFUSION ADC | -
ESPECTROSCOPIA | -
ANGIO 3D TOF | -
T1 AX BASALE | T1
T1 AX DOPO MDC | T1C
T1 3D post-contrasto | T1C
T2 AX ENCEFALO | T2
RICOSTRUZIONI MPR | -
PERFUSIONE | -
T1 AX SEM CONTRASTE | T1
T1 AX COM CONTRASTE | T1C
T1 VOL POS-CONTRASTE | T1C
DIFUSÃO | -
T1 3D TFE TRA GD | T1C
T1 TSE TRA blanco | T1
T1 tra + C | T1C
T2 TRA + FLAIR | FLAIR
SE T1 TRA CE | T1C
T1 SE po kontraście | T1C
T1 SE przed kontrastem | T1
SWI TRA | -
T1 tra kontrast sonrasi | T1C
T1 KONTRAST ONCESI | T1
AKSIYEL FLAIR | FLAIR
T1 SAGITAL IVKM | T1C
Т1 с КУ | T1C
Т1 3D до контраста | T1
FLAIR аксиальный | FLAIR
DWI b1000 ОКБ | -
T1 轴位增强 | T1C
轴位T2 | T2
矢状T1平扫 | T1
冠状 FLAIR | FLAIR
T1 3D增强 | T1C
头颅DWI | -
脑血管 TOF | -
轴位 T1 C+ | T1C
軸狀 T2 | T2
冠狀 T1 打藥後 | T1C
拡散 b1000 | -
T1強調 Gd造影 | T1C
FLAIR 横断 | FLAIR
MRA 頭部 | -
T1 Gd 축상 | T1C
FLAIR 축상 | FLAIR
T1W/SE/AX+C | T1C
T2W/TSE/AX | T2
T1W_FFE_TRA | T1
T1/3D/FFE/GD | T1C
T2W TSE DRIVE CLEAR | -
3D FLAIR VISTA SAG | FLAIR
3D_T1_TFE_GD_SAG | T1C
mDIXON-TFE_W +C | T1C
mDIXON-TFE_F +C | -
sagT1FSE | T1
axT2TSE | T2
AXT1POST | T1C
AXFLAIR | FLAIR
CORT2 | T2
T2 JET AX | T2
FLAIR JET | FLAIR
FASE T2W | T2
T1 SPIRAL POST GD | T1C
gre_fsp3d_tra_c | T1C
t1_fse_tra_c+ | T1C
t1_gre_fsp_3d_sag_iso_c+ | T1C
t2_fse_tra | T2
t2_fse_flair_tra_fs | FLAIR
swi_tra | -
b3000 DWI | -
Vessel wall T1 SPACE post | T1C
AX T1 IAC FS POST | T1C
T2 cor epilepsy 2mm | T2
Black blood T1 SPACE +Gd | T1C
ORBITS T1 FS POST | -
Sella T1 COR POST dynamic | -
T1 SAG C-SPINE | -
Whole spine STIR | -
PHASE: AX SWI | -
OutPhase: Ax LAVA | -
CBF (ml/100g/min) | -
Synthetic T1 map | -
T2 map | -
T1_Images | -
PSIR cor | -
3D DIR | -
AX PD FS | -
MERGE AX | -
FIESTA 3D IAC | -
QSM map | -
""".strip()

THIRD = """
BRAIN AX T1 +GAD | T1C
AX T1 POST CONTRAST REPEAT | T1C
Ax 3D T1 FSPGR pre | T1
Ax T1 SE MT GAD | T1C
AX FSE T1 FS GAD | T1C
T1 AXIAL GADO FAT SAT | T1C
AXIAL 3D T1 MPRAGE W/WO - PRE | T1
T1 W/ CONTRAST AX | T1C
T1 W/O CONTRAST AX | T1
AX T2 FSE FS | T2
AX T2 TSE HR 3MM | T2
T2 TSE COR THIN | T2
Axial FLAIR (fat sat) | FLAIR
FLAIR_3D_SAG_ISO | FLAIR
3D FLAIR SPACE CS | FLAIR
CS 3D T1 TFE | T1
CS_T1W_3D_TFE_Gd | T1C
t1_mprage_caipi_tra_0.9mm | T1
t1_mprage_wave_sag_kontrast | T1C
t1_fl3d_sag_iso_Dixon_KM_W | T1C
t1_tse_fs_tra_p.KM | T1C
t2_tse_rst_tra_dark-fluid | FLAIR
Kopf^Tumor t1 post | T1C
Schaedel T2 TSE tra | T2
Schädel nativ T1 tra | T1
Neuronavigation T1 KM | T1C
DWI_3scan_trace | -
t2_gre_tra_hemo | -
TOF_intrakraniell | -
SWI tra 2mm mIP | -
perf_ep2d_40Messungen | -
MPR cor T1 KM | -
AXIAL T1 GADOLINIUM | T1C
T1 SPIN ECHO AXIAL | T1
T1 ES AX GADO | T1C
COUPES AXIALES T2 | T2
FLAIR 3D SAG FS | FLAIR
DIFF AX B1000 | -
ADC AX | -
SPECTRO MULTIVOXEL | -
T1 SE TRANSVERSAL CONTRASTE EV | T1C
T1 AXIAL S/ CONTRASTE | T1
T2 AX FRFSE CEREBRO | T2
SECUENCIA FLAIR AX | FLAIR
ECO DE GRADIENTE AX | -
ANGIO-RM ARTERIAL TOF | -
T1 SAG SE S/GD | T1
SE T1 ASSIALE | T1
T1 ASSIALE C MDC | T1C
TSE T2 CORONALE | T2
T1 tra m contrast | T1C
T1 na gado | T1C
T2 SE TRA | T2
T1 TSE TRA + K | T1C
FLAIR TRA BRAIN 5/1 | FLAIR
T1 AKS KONTRASTLI | T1C
T2 AKS | T2
DİFÜZYON | -
Т1 tra +C | T1C
T2 TIRM tra | FLAIR
ДВИ b1000 | -
SAG T1 增强 FS | T1C
Ax T2WI FSE | T2
T2W 压水 | FLAIR
T1W 常规 | T1
動脈自旋標記 ASL | -
T2 FLAIR 水平断 | FLAIR
T1 MPRAGE 造影 | T1C
MRI脳 DWI | -
T1 CE axial 축상 | T1C
GRE T2* 축상 | -
Ax T1 RADIAL VIBE POST | T1C
3D QALAS | -
MRF T1 | -
Elastography | -
CEST APTw | -
T1rho | -
CINE CSF | -
PWI MTT map | -
FUNC finger tapping | -
TENSOR 25 | -
SCOUT T1 | -
AX T2 CISS IAC | -
VEN BOLD | -
""".strip()


def _rows(table: str) -> list[tuple[str, str]]:
    return [(text.strip(), kind.strip()) for text, kind in (line.rsplit("|", 1) for line in table.splitlines())]


SETS = {"before the rules": _rows(FIRST), "after the rules": _rows(SECOND), "last": _rows(THIRD)}
